package dynamo_test

import (
	"crypto/rand"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// BenchmarkAcquireAgainstBareUpdateItem takes turns between the coordinator's acquire and the same UpdateItem written by
// hand with the SDK, each on fresh locks, and reports the ratio of their medians.
func BenchmarkAcquireAgainstBareUpdateItem(b *testing.B) {
	table := ""
	s := newStore(b, func(c *dynamo.Config) { table = c.Table })
	c, err := lock.New(lock.Config{Store: s})
	if err != nil {
		b.Fatal(err)
	}
	bare := engine(b)
	var ours, theirs []time.Duration
	n := 0
	for b.Loop() {
		n++
		name := "bench:" + strconv.Itoa(n)
		handWritten := func() {
			start := time.Now()
			_, err := bare.UpdateItem(b.Context(), handWrittenTake(table, name+":bare"))
			theirs = append(theirs, time.Since(start))
			if err != nil {
				b.Fatal(err)
			}
		}
		coordinated := func() {
			start := time.Now()
			_, err := c.Acquire(b.Context(), lock.AcquireRequest{Lock: name, Secret: "secret", Owner: "o", TTL: time.Minute, Capacity: 1, Permits: 1})
			ours = append(ours, time.Since(start))
			if err != nil {
				b.Fatal(err)
			}
		}
		if n%2 == 0 {
			handWritten()
			coordinated()
		} else {
			coordinated()
			handWritten()
		}
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	b.ReportMetric(float64(ours[len(ours)/2])/float64(theirs[len(theirs)/2]), "p50-ratio")
	b.ReportMetric(float64(ours[len(ours)/2].Microseconds()), "p50-µs")
}

func handWrittenTake(table, name string) *dynamodb.UpdateItemInput {
	now := time.Now()
	number := func(n int64) types.AttributeValue {
		return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
	}
	text := func(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
	ms := now.UnixMilli()
	lease := rand.Text()[:22] // as every acquire has one of its own
	return &dynamodb.UpdateItemInput{
		TableName: aws.String(table), Key: map[string]types.AttributeValue{"pk": text(name), "sk": text("lock")},
		ConditionExpression: aws.String("attribute_not_exists(#pk) OR (#free_at <= :free AND #waiting = :zero AND #fence < :fence AND NOT #retired = :lease AND attribute_not_exists(#holders.#lease))"),
		UpdateExpression:    aws.String("SET #holders = :holders, #capacity = :one, #fence = :fence, #free_at = :expiry, #waiting = if_not_exists(#waiting, :zero), #next_ticket = if_not_exists(#next_ticket, :zero), #cause = :cause, #ttl = :ttl REMOVE #by, #reason ADD #rev :one"),
		ExpressionAttributeNames: map[string]string{
			"#lease": lease, "#capacity": "capacity", "#ttl": "ttl", "#by": "by", "#pk": "pk", "#free_at": "free_at",
			"#waiting": "waiting", "#fence": "fence", "#retired": "retired", "#holders": "holders", "#next_ticket": "next_ticket",
			"#cause": "cause", "#reason": "reason", "#rev": "rev",
		},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":free": number(ms - 250), ":zero": number(0), ":one": number(1), ":fence": number(now.UnixMicro()),
			":lease": text(lease), ":expiry": number(ms + 60000), ":cause": text("acquire"), ":ttl": number(ms/1000 + 86460),
			":holders": &types.AttributeValueMemberM{Value: map[string]types.AttributeValue{lease: &types.AttributeValueMemberM{Value: map[string]types.AttributeValue{
				"owner": text("o"), "permits": number(1), "fence": number(now.UnixMicro()), "acquired_at": number(ms), "renewed_at": number(ms), "expires_at": number(ms + 60000), "ttl_ms": number(60000),
			}}}},
		},
		ReturnValues: types.ReturnValueAllOld, ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}
}
