package fencing_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/fencing"
	"github.com/holdfast-lock/holdfast/lockclient/locktest"
)

type table struct {
	*dynamodb.Client
	name string
	t    *testing.T
}

func newTable(t *testing.T) *table {
	t.Helper()
	endpoint := awstest.Endpoint(t)
	d := &table{dynamodb.New(dynamodb.Options{
		Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
		DisableValidateResponseChecksum: true,
	}), awstest.TableName(t, "reports"), t}
	_, err := d.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName:            &d.name,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: types.KeyTypeHash}},
		BillingMode:          types.BillingModePayPerRequest,
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func str(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func (d *table) key() map[string]types.AttributeValue {
	return map[string]types.AttributeValue{"id": str("daily")}
}

// set writes a text under a guard, with a condition of its own unless that is empty.
func (d *table) set(g fencing.Guard, text, condition string) error {
	in := &dynamodb.UpdateItemInput{
		TableName: &d.name, Key: d.key(), UpdateExpression: aws.String("REMOVE draft SET #t = :t"),
		ExpressionAttributeNames: map[string]string{"#t": "text"}, ExpressionAttributeValues: map[string]types.AttributeValue{":t": str(text)},
	}
	if condition != "" {
		in.ConditionExpression = &condition
	}
	g.Update(in)
	_, err := d.UpdateItem(d.t.Context(), in)
	return err
}

func (d *table) text() string {
	d.t.Helper()
	out, err := d.GetItem(d.t.Context(), &dynamodb.GetItemInput{TableName: &d.name, Key: d.key(), ConsistentRead: aws.Bool(true)})
	if err != nil {
		d.t.Fatal(err)
	}
	s, _ := out.Item["text"].(*types.AttributeValueMemberS)
	if s == nil {
		return ""
	}
	return s.Value
}

// The table refuses the write of a holder that was paused for longer than its lease, because the next holder has written with a
// higher token.
func TestPausedHolderIsRefused(t *testing.T) {
	locks := locktest.New(t)
	d := newTable(t)
	paused, err := locks.Client("paused").Acquire(t.Context(), "report:daily", lockclient.Options{ManualRenew: true})
	if err != nil {
		t.Fatal(err)
	}
	first := fencing.Guard{Fence: paused.Fence()}
	for _, text := range []string{"draft", "first"} { // a holder may write repeatedly
		if err := d.set(first, text, ""); err != nil {
			t.Fatal(err)
		}
	}

	second := fencing.Guard{Fence: locks.Steal("report:daily", "second")} // while the first is paused
	if err := d.set(second, "second", ""); err != nil {
		t.Fatal(err)
	}

	if err := paused.Err(); err != nil {
		t.Fatalf("this holder should not know yet: %v", err) // the pause was between its check and its write
	}
	err = d.set(first, "stale", "")
	if !first.Stale(err) {
		t.Errorf("the paused holder's write: %v", err)
	}
	if got := d.text(); got != "second" {
		t.Errorf("the item says %q", got)
	}
}

// Each kind of write is refused to an older holder, and succeeds for the same holder and a newer one.
func TestGuards(t *testing.T) {
	older, same, newer := fencing.Guard{Fence: 4, Attribute: "token"}, fencing.Guard{Fence: 5, Attribute: "token"}, fencing.Guard{Fence: 6, Attribute: "token"}
	writes := map[string]func(d *table, g fencing.Guard) error{
		"put": func(d *table, g fencing.Guard) error {
			in := &dynamodb.PutItemInput{TableName: &d.name, Item: map[string]types.AttributeValue{"id": str("daily")}}
			g.Put(in)
			_, err := d.PutItem(d.t.Context(), in)
			return err
		},
		"update": func(d *table, g fencing.Guard) error { return d.set(g, "x", "") },
		"update that only sets the token": func(d *table, g fencing.Guard) error {
			in := &dynamodb.UpdateItemInput{TableName: &d.name, Key: d.key()}
			g.Update(in)
			_, err := d.UpdateItem(d.t.Context(), in)
			return err
		},
		"update without a SET": func(d *table, g fencing.Guard) error {
			in := &dynamodb.UpdateItemInput{TableName: &d.name, Key: d.key(), UpdateExpression: aws.String("REMOVE preset")}
			g.Update(in)
			_, err := d.UpdateItem(d.t.Context(), in)
			return err
		},
		"delete": func(d *table, g fencing.Guard) error {
			in := &dynamodb.DeleteItemInput{TableName: &d.name, Key: d.key()}
			g.Delete(in)
			_, err := d.DeleteItem(d.t.Context(), in)
			return err
		},
		"transaction": func(d *table, g fencing.Guard) error {
			put := &types.Put{TableName: &d.name, Item: map[string]types.AttributeValue{"id": str("other")}}
			g.TransactPut(put)
			update := &types.Update{
				TableName: &d.name, Key: d.key(), UpdateExpression: aws.String("set x = :x"),
				ExpressionAttributeValues: map[string]types.AttributeValue{":x": str("x")},
			}
			g.TransactUpdate(update)
			_, err := d.TransactWriteItems(d.t.Context(), &dynamodb.TransactWriteItemsInput{TransactItems: []types.TransactWriteItem{{Put: put}, {Update: update}}})
			return err
		},
	}
	for what, write := range writes {
		t.Run(what, func(t *testing.T) {
			d := newTable(t)
			if err := d.set(same, "x", ""); err != nil {
				t.Fatal(err)
			}
			if err := write(d, older); !older.Stale(err) {
				t.Errorf("an older holder: %v", err)
			}
			if err := write(d, same); err != nil {
				t.Errorf("the same holder: %v", err)
			}
			if err := write(d, newer); err != nil {
				t.Errorf("a newer holder: %v", err)
			}
			if what != "delete" {
				if err := write(d, same); !same.Stale(err) {
					t.Errorf("after the newer holder: %v", err)
				}
			}
		})
	}
}

// The failure of the caller's own condition is not stale, and a condition with an OR does not weaken the guard.
func TestGuardBesideAnotherCondition(t *testing.T) {
	older, same := fencing.Guard{Fence: 4, Attribute: "token"}, fencing.Guard{Fence: 5, Attribute: "token"}
	d := newTable(t)
	err := d.set(same, "x", "attribute_exists(id)")
	if _, failed := errors.AsType[*types.ConditionalCheckFailedException](err); !failed || same.Stale(err) {
		t.Errorf("the caller's own condition: %v", err)
	}
	if err := d.set(same, "x", "attribute_not_exists(id) OR attribute_exists(id)"); err != nil { // the OR applies to the caller's condition only
		t.Error(err)
	}
	err = d.set(older, "x", "attribute_not_exists(nothing) OR attribute_exists(id)")
	if !older.Stale(err) || strings.Contains(d.text(), "stale") {
		t.Errorf("an older holder with a condition that holds: %v", err)
	}
}

func TestExampleOfTheDocs(t *testing.T) {
	d := newTable(t)
	locks := locktest.New(t)
	ctx, table := t.Context(), d.Client
	lease, err := locks.Client("me").Acquire(ctx, "report:daily", lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	input := &dynamodb.UpdateItemInput{TableName: &d.name, Key: d.key()}
	write := func() error {
		guard := fencing.Guard{Fence: lease.Fence()}
		guard.Update(input) // adds the condition and the token
		_, err := table.UpdateItem(ctx, input)
		if guard.Stale(err) {
			return lockclient.ErrLost // a newer holder has written this item: stop
		}
		return err
	}
	if err := write(); err != nil {
		t.Error(err)
	}
}
