package direct

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// ErrNothingToRepair is the error of [Table.Repair] for a lock whose fencing token is not ahead of time.
var ErrNothingToRepair = lock.ErrNothingToRepair

// Repaired is the result of [Table.Repair].
type Repaired struct {
	Before, After int64     // the lock's highest fencing token before and after the repair
	Opens         time.Time // the time from which the lock can be granted again
}

// Repair corrects the fencing token of a lock that cannot be granted because the token is more than an hour ahead of time. A process
// with a wrong clock wrote such a token, and stopped or lost the answer before it could undo the write. Repair sets the token to one
// that is above every token that a client can have been given; a few seconds later the lock can be granted again. Repair stores by
// (the caller) and reason (1 to 512 bytes) in the lock's row, where the stream's consumer reads them.
//
// Repair first checks that this process's clock agrees with DynamoDB's, that the token is further ahead than any that a client can
// have been given (the error is [ErrNothingToRepair] if it is not), and that no live lease has such a token (force-release that
// lease first). It cannot check whether a protected resource has stored the wrong token, for example from an event: reset it there.
// Repair may be repeated after a fault.
func (t *Table) Repair(ctx context.Context, name, by, reason string) (Repaired, error) {
	if problem := wire.CheckName(name); problem != "" {
		return Repaired{}, fmt.Errorf("direct: name %s", problem)
	}
	if wire.Blank(reason) {
		return Repaired{}, errors.New("direct: reason is empty; say why the lock is repaired, for those who read of it later")
	}
	if problem := wire.CheckText(reason, wire.MaxReason, true); problem != "" {
		return Repaired{}, fmt.Errorf("direct: reason %s", problem)
	}
	done, err := t.coordinator.Repair(ctx, lock.RepairRequest{Lock: name, Principal: by, Reason: reason})
	if errors.Is(err, lock.ErrLockHeld) {
		return Repaired{}, fmt.Errorf("direct: repair of %s: a live lease has such a token; force-release it first, then repair: %w", name, err)
	}
	if err != nil {
		return Repaired{}, fmt.Errorf("direct: repair of %s: %w", name, err)
	}
	return Repaired(done), nil
}
