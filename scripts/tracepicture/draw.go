package main

import (
	"bytes"
	"fmt"
	"html"
	"strings"
)

// The sizes of the picture, in pixels.
const (
	width, left, right = 1100, 330, 120
	rowHeight, barHigh = 24, 14
)

// colours are those of the services; others get the last.
var colours = []struct{ service, colour string }{
	{"a program", "#6b7280"}, {"cquire", "#2563eb"}, {"elease", "#16a34a"}, {"tream", "#d97706"}, {"xpire", "#9333ea"}, {"", "#475569"},
}

func colourOf(service string) string {
	for _, c := range colours {
		if strings.Contains(service, c.service) {
			return c.colour
		}
	}
	return ""
}

// A row is a line of the picture: a span, or the heading of a trace.
type row struct {
	span
	depth   int
	heading string
}

// rows are the traces of a program and of a task that was told of its grant, in this order, each with its spans below their parents.
func rows(all []span) (list []row) {
	told, ids := "", map[string]bool{}
	for _, s := range all {
		ids[s.trace+s.id] = true
		if s.name == "holdfast.callback" {
			told = s.trace
		}
	}
	var below func(trace, parent string, depth int)
	below = func(trace, parent string, depth int) {
		for _, s := range all {
			root := s.parent == "" || !ids[s.trace+s.parent]
			if s.trace == trace && (parent == "" && root || parent != "" && s.parent == parent) {
				list = append(list, row{span: s, depth: depth})
				below(trace, s.id, depth+1)
			}
		}
	}
	seen := map[string]bool{told: true}
	for _, s := range all {
		if s.service == "a program" && !seen[s.trace] {
			seen[s.trace] = true
			list = append(list, row{heading: "trace " + s.trace + ": a program holds the lock"})
			below(s.trace, "", 0)
		}
	}
	list = append(list, row{heading: "trace " + told + ": the execution, whose header of X-Ray the functions got"})
	below(told, "", 0)
	return list
}

// draw is the picture as SVG.
func draw(all []span) []byte {
	list := rows(all)
	var from, to int64
	for _, r := range list {
		if r.heading == "" && (from == 0 || r.from < from) {
			from = r.from
		}
		to = max(to, r.to)
	}
	scale := float64(width-left-right) / float64(max(to-from, 1))
	x := func(at int64) float64 { return left + float64(at-from)*scale }
	height := (len(list) + 2) * rowHeight
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, "<title>The spans of a task that waits for a lock, from the state machine to the release, and those of the holder before it</title>\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	step := int64(500e6)
	for step*12 < to-from {
		step *= 2
	}
	for at := int64(0); at <= to-from; at += step {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="20" x2="%.1f" y2="%d" stroke="#e5e7eb"/><text x="%.1f" y="14" text-anchor="middle" fill="#374151">%.1f s</text>`+"\n",
			x(from+at), x(from+at), height-8, x(from+at), float64(at)/1e9)
	}
	place := map[string]int{}
	for i, r := range list {
		y := (i + 1) * rowHeight
		if r.heading != "" {
			fmt.Fprintf(&b, `<text x="8" y="%d" font-weight="600" fill="#111827">%s</text>`+"\n", y+16, html.EscapeString(r.heading))
			continue
		}
		place[r.id] = i
		label := short(r.service) + " function" // an invocation
		if r.name != r.service {
			label = r.name + ", " + short(r.service)
		}
		if kind := r.attributes["holdfast.event.type"]; kind != "" {
			label += ": " + kind
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#111827">%s</text>`+"\n", 16+12*r.depth, y+16, html.EscapeString(label))
		wide := max(float64(r.to-r.from)*scale, 2)
		fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`+"\n", x(r.from), y+5, wide, barHigh, colourOf(r.service))
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" fill="#374151" font-size="11">%s</text>`+"\n", x(r.from)+wide+4, y+16, html.EscapeString(took(r.to-r.from)))
	}
	for _, r := range list {
		for _, l := range r.links {
			if there, ok := place[l]; ok {
				a, z := there*rowHeight+rowHeight+12, place[r.id]*rowHeight+rowHeight+12
				fmt.Fprintf(&b, `<path d="M %.1f %d V %d" stroke="#dc2626" stroke-dasharray="3 3" fill="none"/>`+"\n", x(r.from), a, z)
			}
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func took(ns int64) string {
	if ns < 1e9 {
		return fmt.Sprintf("%.0f ms", float64(ns)/1e6)
	}
	return fmt.Sprintf("%.2f s", float64(ns)/1e9)
}

// short is a service's name without what CloudFormation makes of it.
func short(service string) string {
	for _, name := range []string{"Acquire", "Release", "Stream", "Expire", "Renew"} {
		if strings.Contains(service, name) {
			return strings.ToLower(name)
		}
	}
	return service
}
