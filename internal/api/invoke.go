package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Handler returns the Lambda function that serves op. That of status serves list too, and that of rules all operations on rules. Its
// payload is an event of API Gateway's HTTP API (payload format 2.0), or else a direct invocation: the operation's fields, the lock's name
// in the field name, or the rule's prefix in the field prefix, and, if the function serves several operations, the operation in the field op.
// A payload with the field locks is about a set.
func (a *API) Handler(op wire.Op) lambda.Handler { return &handler{api: a, function: op.Function()} }

// A handler is one Lambda function.
type handler struct {
	api      *API
	function wire.Op
}

// Invoke implements [lambda.Handler].
func (h *handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	lc, ok := lambdacontext.FromContext(ctx)
	if !ok {
		lc = &lambdacontext.LambdaContext{}
	}
	c := &call{op: h.function, function: lc.InvokedFunctionArn, requestID: cmp.Or(lc.AwsRequestID, rand.Text())}
	if event, ok := asHTTP(payload); ok {
		c.forged = h.api.noHTTP || !scope.MayBeAPI(c.function)
		c.readHTTP(event)
		return encode(httpResponse(h.api.serve(ctx, c))), nil
	}
	c.readDirect(payload)
	answer, problem := h.api.serve(ctx, c)
	if problem != nil {
		return nil, messages.InvokeResponse_Error{Type: problem.Code.ErrorType(), Message: string(encode(problem))}
	}
	return encode(answer), nil
}

// readDirect completes a call with the payload of a direct invocation. Nothing in the payload names the caller: Lambda does not
// say who invokes a function.
func (c *call) readDirect(payload []byte) {
	c.fields, c.malformed = parseObject(payload)
	if c.malformed != nil {
		return
	}
	if all := c.op.Together(); len(all) > 1 {
		op, _ := c.fields.str("op")
		if slices.Contains(all, wire.Op(op)) {
			c.op = wire.Op(op)
		} else {
			c.fields.fail("op", `op is %q; it must be %s`, brief([]byte(op)), oneOf(all))
		}
	}
	if c.fields.fields["locks"] != nil && c.op.OfSet() != "" {
		c.op = c.op.OfSet()
	}
	var given bool
	switch {
	case !c.op.Named():
	case c.op.OfRules():
		if c.lock, given = c.fields.str("prefix"); !given {
			c.fields.fail("prefix", `prefix is missing; give the beginning of locks' names, or "*" for all locks`)
		}
	default:
		if c.lock, given = c.fields.str("name"); !given {
			c.fields.fail("name", "name is missing; give the lock's")
		}
	}
	c.malformed = c.fields.err
}

// oneOf lists what a text may be, for an error text: "a" or "b".
func oneOf[T ~string](all []T) string {
	text := make([]string, len(all))
	for i, one := range all {
		text[i] = fmt.Sprintf("%q", one)
	}
	last := len(text) - 1
	if last == 0 {
		return text[0]
	}
	return strings.Join(text[:last], ", ") + " or " + text[last]
}
