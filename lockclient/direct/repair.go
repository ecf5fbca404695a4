package direct

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// ErrNothingToRepair is what [Table.Repair] answers for a lock whose fencing token is not ahead of time.
var ErrNothingToRepair = lock.ErrNothingToRepair

// Repaired is what [Table.Repair] did.
type Repaired struct {
	Before, After int64     // the lock's highest fencing token
	Opens         time.Time // when the lock can be granted again
}

// Repair puts right a lock that nobody can be granted because its fencing token is more than an hour ahead of time: a process with a
// wrong clock wrote it, and stopped, or lost the answer, before it could take the token back. The token becomes one that is above
// every token that can have been told to anyone, and the lock can be granted again some seconds later. By and reason are stored
// in the lock's row, where the stream's consumer reads them.
//
// Repair checks that this process's clock agrees with DynamoDB's, that the token is further ahead than any that a client can have
// been told ([ErrNothingToRepair]), and that no live lease has such a token: that lease is to be force-released first. It cannot
// check whether a resource has stored the wrong token, say from an event: reset it there. Repeated after a fault, it does no
// harm.
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
