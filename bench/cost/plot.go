package main

import (
	"fmt"
	"math"
	"strings"
)

// The plot has two panels with logarithmic axes.
const (
	panelWidth, panelHeight = 330.0, 270.0
	panelTop                = 52.0
	panelLeft, panelGap     = 70.0, 100.0
	mostWaiters             = 500.0
)

// A line of the plot is a kind of waiter: its class in the style, and the mark of its points, so that colour is not needed to tell it.
var plotLines = []struct{ name, class, mark string }{
	{name(ours, "before"), "before", "square"},
	{bare, "bare", "circle"},
	{other, "other", "triangle"},
	{name(ours, "after"), "after", "diamond"},
}

const plotStyle = `  <style>
    text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; text-anchor: middle }
    .title { font-weight: 600 }
    .right { text-anchor: end } .left { text-anchor: start }
    .grid { stroke: #d1d9e0; stroke-width: 1 }
    .curve { fill: none; stroke-width: 2 } .mark { stroke: none }
    .curve.before { stroke: #bc4c00 } .mark.before { fill: #bc4c00 }
    .curve.bare { stroke: #59636e } .mark.bare { fill: #59636e }
    .curve.other { stroke: #8250df } .mark.other { fill: #8250df }
    .curve.after { stroke: #0969da; stroke-width: 3 } .mark.after { fill: #0969da }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .grid { stroke: #3d444d }
      .curve.before { stroke: #f0883e } .mark.before { fill: #f0883e }
      .curve.bare { stroke: #9198a1 } .mark.bare { fill: #9198a1 }
      .curve.other { stroke: #bc8cff } .mark.other { fill: #bc8cff }
      .curve.after { stroke: #58a6ff } .mark.after { fill: #58a6ff }
    }
  </style>
`

// plot draws requests and price against the number of waiters.
func plot(before, after Run) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img" aria-labelledby="title desc">
  <title id="title">What waiters for one lock consume in 10 seconds</title>
  <desc id="desc">Two plots with logarithmic axes: requests, and the price of DynamoDB's units, against 1, 10, 100 and 500 waiters. The figures are in the tables of docs/benchmarks.md.</desc>
`, panelLeft+2*panelWidth+panelGap+20, panelTop+panelHeight+100)
	b.WriteString(plotStyle)
	list := series(before, after)
	panel(&b, panelLeft, "DynamoDB requests in 10 s", list, func(w Waiting) float64 { return float64(w.Total.Requests) })
	panel(&b, panelLeft+panelWidth+panelGap, "price of a million such waits of all, $", list, func(w Waiting) float64 { return price(w.Total) })
	for i, l := range plotLines {
		x, y := panelLeft+float64(i%2)*(panelWidth+panelGap), panelTop+panelHeight+62+24*float64(i/2)
		fmt.Fprintf(&b, `  <line class="curve %s" x1="%g" x2="%g" y1="%g" y2="%g"/>%s<text class="left" x="%g" y="%g">%s</text>`+"\n",
			l.class, x, x+40, y, y, mark(l.mark, l.class, x+20, y), x+50, y+4, l.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// panel draws one plot with its left edge at x.
func panel(b *strings.Builder, x float64, title string, list []named, value func(Waiting) float64) {
	least, most := math.Inf(1), 0.0
	for _, w := range list {
		least, most = min(least, value(w.Waiting)), max(most, value(w.Waiting))
	}
	from, to := math.Floor(math.Log10(max(least, 0.1))), math.Ceil(math.Log10(max(most, 1)))
	atX := func(waiters float64) float64 { return x + math.Log10(waiters)/math.Log10(mostWaiters)*panelWidth }
	atY := func(v float64) float64 {
		return panelTop + panelHeight*(1-(math.Log10(max(v, 0.1))-from)/(to-from))
	}
	fmt.Fprintf(b, `  <text class="title left" x="%g" y="28">%s</text>`+"\n", x, title)
	for e := from; e <= to; e++ {
		y := atY(math.Pow(10, e))
		fmt.Fprintf(b, `  <line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text class="right" x="%g" y="%.1f">%s</text>`+"\n",
			x, x+panelWidth, y, y, x-8, y+4, thousands(math.Pow(10, e)))
	}
	for _, waiters := range []float64{1, 10, 100, mostWaiters} {
		fmt.Fprintf(b, `  <line class="grid" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/><text x="%.1f" y="%g">%g</text>`+"\n",
			atX(waiters), atX(waiters), panelTop, panelTop+panelHeight, atX(waiters), panelTop+panelHeight+18, waiters)
	}
	fmt.Fprintf(b, `  <text x="%g" y="%g">waiters</text>`+"\n", x+panelWidth/2, panelTop+panelHeight+36)
	for _, l := range plotLines {
		var points []string
		marks := ""
		for _, w := range list {
			if w.name == l.name {
				px, py := atX(float64(w.Waiters)), atY(value(w.Waiting))
				points = append(points, fmt.Sprintf("%.1f,%.1f", px, py))
				marks += mark(l.mark, l.class, px, py)
			}
		}
		fmt.Fprintf(b, `  <polyline class="curve %s" points="%s"/>%s`+"\n", l.class, strings.Join(points, " "), marks)
	}
}

func mark(shape, class string, x, y float64) string {
	const r = 5
	switch shape {
	case "circle":
		return fmt.Sprintf(`<circle class="mark %s" cx="%.1f" cy="%.1f" r="%d"/>`, class, x, y, r)
	case "square":
		return fmt.Sprintf(`<rect class="mark %s" x="%.1f" y="%.1f" width="%d" height="%d"/>`, class, x-r, y-r, 2*r, 2*r)
	case "triangle":
		return fmt.Sprintf(`<path class="mark %s" d="M%.1f %.1fl%d %dh-%dz"/>`, class, x, y-r, r, 2*r, 2*r)
	}
	return fmt.Sprintf(`<path class="mark %s" d="M%.1f %.1fl%d %dl-%d %dl-%d -%dz"/>`, class, x, y-r-1, r+1, r+1, r+1, r+1, r+1, r+1)
}

// thousands writes a power of ten with commas.
func thousands(v float64) string {
	if v < 1 {
		return fmt.Sprintf("%g", v)
	}
	text := fmt.Sprintf("%.0f", v)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
