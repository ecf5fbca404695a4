package api

import (
	"cmp"
	"context"
	"crypto/rand"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Handler returns the Lambda function that serves op. That of status serves list too. Its payload is an event of API Gateway's
// HTTP API (payload format 2.0), or else a direct invocation: the operation's fields, the lock's name in the field name and,
// for status and list, the operation in the field op.
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
	if c.op == wire.OpStatus {
		switch op, _ := c.fields.str("op"); wire.Op(op) {
		case wire.OpStatus, wire.OpList:
			c.op = wire.Op(op)
		default:
			c.fields.fail("op", `op is %q; it must be "status" or "list"`, brief([]byte(op)))
		}
	}
	if c.op != wire.OpList {
		var given bool
		if c.lock, given = c.fields.str("name"); !given {
			c.fields.fail("name", "name is missing; give the lock's")
		}
	}
	c.malformed = c.fields.err
}
