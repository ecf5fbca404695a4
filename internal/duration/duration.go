// Package duration parses durations on command lines.
package duration

import (
	"fmt"
	"reflect"
	"regexp"
	"time"

	"github.com/alecthomas/kong"
)

// inDays matches a duration whose first unit is days.
var inDays = regexp.MustCompile(`^([+-]?)([0-9]+\.?[0-9]*|\.[0-9]+)d(.*)$`)

// Parse is [time.ParseDuration] with one more unit, the day of 24 hours, which must come first: 7d, 1d12h.
func Parse(text string) (time.Duration, error) {
	parts := inDays.FindStringSubmatch(text)
	if parts == nil {
		return time.ParseDuration(text)
	}
	hours, err := time.ParseDuration(parts[2] + "h")
	days := 24 * hours
	if err != nil || days/24 != hours {
		return 0, fmt.Errorf("time: invalid duration %q", text)
	}
	total := days
	if parts[3] != "" {
		rest, err := time.ParseDuration(parts[3])
		if err != nil || rest < 0 || parts[3][0] == '+' {
			return 0, fmt.Errorf("time: invalid duration %q", text)
		}
		total += rest
	}
	if total < days {
		return 0, fmt.Errorf("time: invalid duration %q", text)
	}
	if parts[1] == "-" {
		total = -total
	}
	return total, nil
}

// Decode is a [kong.MapperFunc] for fields of type [time.Duration].
func Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("duration", &text); err != nil {
		return err
	}
	d, err := Parse(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration; give a number with a unit of ms, s, m, h or d, like 90s, 1h30m or 7d", text)
	}
	target.SetInt(int64(d))
	return nil
}
