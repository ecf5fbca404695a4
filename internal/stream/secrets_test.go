package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// repeating is a fake service whose errors repeat the token, as those of AWS's validations do.
type repeating struct{ kind error }

func (r repeating) Succeed(_ context.Context, token lock.Token, _ []byte) error {
	return fmt.Errorf("%w: Value '%s' at 'taskToken' failed to satisfy constraint", r.kind, token.Text)
}

func (r repeating) Fail(ctx context.Context, token lock.Token, _, _ string) error {
	return r.Succeed(ctx, token, nil)
}

// No error of a callback has the token, which the log would then have. Its kind stays.
func TestErrorsOfCallbacksHaveNoToken(t *testing.T) {
	token := lock.Token{Kind: lock.TaskToken, Text: "TOKEN-OF-A-TASK"}
	for _, kind := range []error{ErrTaskGone, ErrUndeliverable, context.DeadlineExceeded} {
		services := ByKind{lock.TaskToken: repeating{kind}}
		for _, err := range []error{services.Succeed(t.Context(), token, nil), services.Fail(t.Context(), token, "code", "cause")} {
			if !errors.Is(err, kind) || strings.Contains(err.Error(), token.Text) || !strings.Contains(err.Error(), "failed to satisfy") {
				t.Errorf("%v: %v", kind, err)
			}
		}
	}
}
