package main

import (
	"fmt"
	"slices"
	"strings"
)

// The plot has panels of horizontal bars, one bar for each client.
const (
	barHeight, barGap     = 16.0, 8.0
	plotLabels, plotWidth = 290.0, 300.0
	plotValues            = 90.0
	plotTop               = 44.0
)

const plotStyle = `  <style>
    text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
    .title { font-weight: 600 } .label { text-anchor: end }
    .other { fill: #9a7bd0 } .bare { fill: #8c959f } .ours { fill: #0969da }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .other { fill: #bc8cff } .bare { fill: #6e7681 } .ours { fill: #58a6ff }
    }
  </style>
`

// A panel has a figure for each client, if it was measured.
type panel struct {
	title  string
	format string
	value  func(kind string) (float64, bool)
}

func (r Run) panels() []panel {
	return []panel{
		{"Requests of an acquire and a release", "%.3g", func(kind string) (float64, bool) {
			c, ok := find(r.Cycles, func(c Cycle) bool { return c.Kind == kind })
			return float64(c.SameKey.Requests) / float64(max(c.Cycles, 1)), ok
		}},
		{"Time of an acquire, p50, ratio to the bare write, 1 client", "%.2f", func(kind string) (float64, bool) {
			s, ok := find(r.Speeds, func(s Speed) bool { return s.Kind == kind && s.Clients == 1 })
			return s.Acquire.P50Ratio, ok
		}},
		{"Hand-off to a waiter in another process, defaults, p50", "%.2f s", func(kind string) (float64, bool) {
			h, ok := find(r.Handoffs, func(h Handoff) bool { return h.Kind == kind && h.Polling == "defaults" })
			return h.P50ms / 1000, ok && h.Count > 0
		}},
		{"The reply of an acquire is lost: time until its caller has the lock, lease 4 s", "%.2f s", func(kind string) (float64, bool) {
			f, _ := find(r.Faults, func(f Faults) bool { return f.Kind == kind })
			return percentile(took(f.Acquire), 50) / 1000, len(f.Acquire) > 0
		}},
		{"Lost updates under all faults, of 100 increments", "%.1f", func(kind string) (float64, bool) {
			lost, all := 0, 0
			for _, e := range r.Exclusions {
				if e.Kind == kind {
					lost, all = lost+e.Lost, all+e.Increments
				}
			}
			return 100 * float64(lost) / float64(max(all, 1)), all > 0
		}},
	}
}

// plot draws the panels, one below the other.
func plot(r Run) string {
	panels := slices.DeleteFunc(r.panels(), func(p panel) bool {
		return !slices.ContainsFunc(kinds(peers), func(kind string) bool { _, ok := p.value(kind); return ok })
	})
	each := plotTop + float64(len(peers))*(barHeight+barGap)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img" aria-labelledby="title desc">
  <title id="title">Holdfast and its peers</title>
  <desc id="desc">Bars for each lock client: requests of a cycle, time of an acquire, hand-off, a lost reply, lost updates. The figures are in the tables of docs/benchmarks.md.</desc>
`, plotLabels+plotWidth+plotValues, each*float64(len(panels))+10)
	b.WriteString(plotStyle)
	for i, p := range panels {
		p.draw(&b, each*float64(i))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (p panel) draw(b *strings.Builder, top float64) {
	fmt.Fprintf(b, `  <text class="title" x="10" y="%g">%s</text>`+"\n", top+28, p.title)
	most := 0.0
	for _, peer := range peers {
		if v, ok := p.value(peer.kind); ok {
			most = max(most, v)
		}
	}
	for i, peer := range peers {
		y := top + plotTop + float64(i)*(barHeight+barGap)
		fmt.Fprintf(b, `  <text class="label" x="%g" y="%g">%s</text>`, plotLabels-10, y+barHeight-3, peer.name)
		v, ok := p.value(peer.kind)
		width, text := 0.0, "not measured"
		if ok {
			text = fmt.Sprintf(p.format, v)
			if most > 0 {
				width = v / most * plotWidth
			}
		}
		fmt.Fprintf(b, `<rect class="%s" x="%g" y="%g" width="%.1f" height="%g"/><text x="%.1f" y="%g">%s</text>`+"\n",
			class(peer.kind), plotLabels, y, width, barHeight, plotLabels+width+8, y+barHeight-3, text)
	}
}

func class(kind string) string {
	switch kind {
	case direct, throughAPI:
		return "ours"
	case bare:
		return "bare"
	}
	return "other"
}
