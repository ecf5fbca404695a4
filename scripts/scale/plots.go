package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-lock/holdfast/scripts/scale/model"
)

// usual is the load of docs/scale.md: a million locks by Zipf's law, held for a second, events for all, over HTTP.
var usual = model.Load{Rate: 500, Locks: 1_000_000, Exponent: 1, Hold: 1, Poll: 5, Events: true, API: true}

// modelled prints the use of each limit, the first to be reached at the beginning, and the price.
func modelled(_ context.Context, args []string) error {
	l := usual
	flags := flag.NewFlagSet("model", flag.ContinueOnError)
	flags.Float64Var(&l.Rate, "rate", l.Rate, "acquires a second")
	flags.IntVar(&l.Locks, "locks", l.Locks, "locks")
	flags.Float64Var(&l.Exponent, "exponent", l.Exponent, "of Zipf's law")
	flags.Float64Var(&l.Hold, "hold", l.Hold, "seconds for which a lock is held, on average")
	flags.Float64Var(&l.Renew, "renew", l.Renew, "seconds between renewals")
	flags.Float64Var(&l.Wait, "wait", l.Wait, "the share of callers that wait")
	flags.Float64Var(&l.Poll, "poll", l.Poll, "seconds between polls of a waiter")
	flags.Float64Var(&l.New, "new", l.New, "the share of acquires whose lock has no row")
	flags.Float64Var(&l.Tasks, "tasks", l.Tasks, "the share of acquires that are tasks of state machines")
	flags.BoolVar(&l.Events, "events", l.Events, "publish events")
	flags.BoolVar(&l.API, "api", l.API, "over HTTP; false: direct invocation")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if l.Rate <= 0 || l.Locks < 1 || l.Locks > 10_000_000 || l.Hold < 0 || l.Wait < 0 || l.Wait > 1 || l.New < 0 || l.New > 1 || l.Tasks < 0 || l.Tasks > 1 {
		return fmt.Errorf("model: rate is above 0, locks 1 to 10,000,000, hold 0 or more, and wait, new and tasks are 0 to 1")
	}
	all, hottest := l.Flows()
	fmt.Printf("a second: %.0f acquires, %.0f granted, %.0f refused (%.0f %%), %.0f joined; hottest lock: %.1f acquires, held for %.0f %% of the time\n",
		all.Acquires, all.Granted, all.Refused, 100*all.Refused/all.Acquires, all.Joined, hottest.Acquires, 100*hottest.Held)
	if all.Unstable > 0 {
		fmt.Printf("%.0f locks are asked for more often than they become free: their queues grow until callers give up\n", all.Unstable)
	}
	for _, u := range l.Utilisation(model.Assumed) {
		fmt.Printf("%6.1f %%  full at %9.0f acquires a second  %s: %.1f of %.0f %s\n", 100*u.Share, u.At, u.Limit.Name, u.Used, u.Limit.Most, u.Limit.Unit)
	}
	dollars, sum := l.Dollars(model.Assumed), 0.0
	for _, service := range slices.Sorted(maps.Keys(dollars)) {
		sum += dollars[service]
		fmt.Printf("$%.2f %s, ", dollars[service], service)
	}
	fmt.Printf("$%.2f a million acquires\n", sum)
	return nil
}

// plots draws the figures of docs/scale.md.
func plots(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("plots", flag.ContinueOnError)
	out := flags.String("out", "docs/scale", "the `folder` of the plots")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil { //nolint:gosec // to be read by all
		return err
	}
	for name, svg := range map[string]string{"utilisation.svg": utilisation(), "popularity.svg": popularity()} {
		if err := os.WriteFile(filepath.Join(*out, name), []byte(svg), 0o644); err != nil { //nolint:gosec // to be read by all
			return err
		}
	}
	return nil
}

// utilisation draws the shares of the first six limits against the rate.
func utilisation() string {
	l := usual
	first := l.Utilisation(model.Assumed)[:6]
	var lines []line
	for _, u := range first {
		lines = append(lines, line{name: u.Limit.Name})
	}
	for rate := 10.0; rate <= 100_001; rate *= math.Pow(10, 0.125) {
		l.Rate = rate
		all, hottest := l.Flows()
		for i, u := range first {
			lines[i].points = append(lines[i].points, [2]float64{rate, 100 * u.Limit.Used(l, all, hottest, model.Assumed) / u.Limit.Most})
		}
	}
	return chart("How much of each limit a load uses", "acquires a second, of a million locks", "% of the limit", [2]float64{10, 1e5}, [2]float64{0.1, 1000}, lines)
}

// popularity draws at which rate some limits are used up, against the exponent of Zipf's law.
func popularity() string {
	names := []string{"the API's throttle", "events of the hottest lock", "writes of the hottest lock", "a new table's writes"}
	lines := make([]line, len(names))
	for i, n := range names {
		lines[i].name = n
	}
	for _, e := range []float64{0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.6} {
		l := usual
		l.Locks, l.Exponent, l.Hold = 100_000, e, 0.01
		for _, u := range l.Utilisation(model.Assumed) {
			if i := slices.Index(names, u.Limit.Name); i >= 0 && !math.IsInf(u.At, 1) {
				lines[i].points = append(lines[i].points, [2]float64{e, u.At})
			}
		}
	}
	return chart("When a limit is reached, by how unequal the locks' popularity is", "exponent of Zipf's law (100,000 locks, each held for 10 ms)", "acquires a second", [2]float64{0.5, 1.6}, [2]float64{100, 1e6}, lines)
}

// A line of a chart. Lines differ in colour and in their dashes.
type line struct {
	name   string
	points [][2]float64
}

var dashes = []string{"", "9 3", "3 3", "12 3 3 3", "1 3", "16 6"}

const (
	chartWidth, chartHeight = 560.0, 300.0
	chartLeft, chartTop     = 80.0, 50.0
	chartStyle              = `  <style>
    text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; text-anchor: middle }
    .title { font-weight: 600; text-anchor: start } .right { text-anchor: end } .left { text-anchor: start }
    .grid { stroke: #d1d9e0 } .full { stroke: #1f2328; stroke-width: 1.5 }
    .line { fill: none; stroke-width: 2.5 }
    .c0 { stroke: #cf222e } .c1 { stroke: #0969da } .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df } .c4 { stroke: #bc4c00 } .c5 { stroke: #59636e }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .grid { stroke: #3d444d } .full { stroke: #e6edf3 }
      .c0 { stroke: #ff7b72 } .c1 { stroke: #58a6ff } .c2 { stroke: #56d364 } .c3 { stroke: #bc8cff } .c4 { stroke: #f0883e } .c5 { stroke: #9198a1 }
    }
  </style>
`
)

// chart draws lines over logarithmic axes, with a line at 100 where the vertical axis has it within.
func chart(title, across, up string, x, y [2]float64, lines []line) string {
	var b strings.Builder
	atX := func(v float64) float64 { return chartLeft + math.Log(v/x[0])/math.Log(x[1]/x[0])*chartWidth }
	atY := func(v float64) float64 { return chartTop + chartHeight*(1-math.Log(v/y[0])/math.Log(y[1]/y[0])) }
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img" aria-labelledby="title desc">`+"\n", chartLeft+chartWidth+20, chartTop+chartHeight+70+20*float64(len(lines)))
	fmt.Fprintf(&b, `  <title id="title">%s</title><desc id="desc">Lines with logarithmic axes: %s, against %s. The figures are in docs/scale.md.</desc>`+"\n%s", title, up, across, chartStyle)
	fmt.Fprintf(&b, `  <text class="title" x="%g" y="24">%s (%s)</text>`+"\n", chartLeft, title, up)
	for v := y[0]; v <= y[1]*1.01; v *= 10 {
		class := "grid"
		if v > 99 && v < 101 && y[0] < 99 {
			class = "full"
		}
		fmt.Fprintf(&b, `  <line class="%s" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text class="right" x="%g" y="%.1f">%g</text>`+"\n", class, chartLeft, chartLeft+chartWidth, atY(v), atY(v), chartLeft-8, atY(v)+4, math.Round(v*10)/10)
	}
	for _, v := range ticks(x) {
		fmt.Fprintf(&b, `  <line class="grid" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/><text x="%.1f" y="%g">%g</text>`+"\n", atX(v), atX(v), chartTop, chartTop+chartHeight, atX(v), chartTop+chartHeight+20, v)
	}
	fmt.Fprintf(&b, `  <text x="%g" y="%g">%s</text>`+"\n", chartLeft+chartWidth/2, chartTop+chartHeight+42, across)
	for i, l := range lines {
		var points []string
		for _, p := range l.points {
			if p[1] >= y[0] && p[1] <= y[1] {
				points = append(points, fmt.Sprintf("%.1f,%.1f", atX(p[0]), atY(p[1])))
			}
		}
		fmt.Fprintf(&b, `  <polyline class="line c%d" stroke-dasharray="%s" points="%s"/>`+"\n", i, dashes[i], strings.Join(points, " "))
		at := chartTop + chartHeight + 64 + 20*float64(i)
		fmt.Fprintf(&b, `  <line class="line c%d" stroke-dasharray="%s" x1="%g" x2="%g" y1="%g" y2="%g"/><text class="left" x="%g" y="%g">%s</text>`+"\n", i, dashes[i], chartLeft, chartLeft+50, at, at, chartLeft+60, at+4, l.name)
	}
	return b.String() + "</svg>\n"
}

// ticks are the marks of the horizontal axis: powers of ten, or some values between, if it has fewer than two.
func ticks(x [2]float64) (list []float64) {
	if x[1]/x[0] < 100 {
		return []float64{0.5, 0.75, 1, 1.25, 1.6}
	}
	for v := x[0]; v <= x[1]*1.01; v *= 10 {
		list = append(list, v)
	}
	return list
}
