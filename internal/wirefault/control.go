package wirefault

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
)

const settleTimeout = time.Minute

// Control returns the handler of the control path. Bodies are JSON; a refusal has the status 400 and {"error": TEXT}.
//
//	GET  /stats      → Stats
//	GET  /plan       → Plan
//	PUT  /plan       Plan: replaces the plan
//	POST /rules      [Rule]: puts rules before those of the plan; {"kind":"drop-reply","rate":1,"limit":1} is the next request
//	POST /listen     {"client":"c1","address":"127.0.0.1:0"} → {"url":"http://…"}: a client's own listener; the address may be left out
//	POST /partition  {"client":"c1","direction":"both"}: both, requests or replies; the direction may be left out
//	POST /heal       {"client":"c1"}
//	PUT  /upstreams  ["http://…"]
//	POST /settle     waits until what was to be delivered later has been, at most a minute
func (p *Proxy) Control() http.Handler {
	mux := http.NewServeMux()
	handle(mux, "GET /stats", func(context.Context, struct{}) (Stats, error) { return p.Stats(), nil })
	handle(mux, "GET /plan", func(context.Context, struct{}) (Plan, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.plan, nil
	})
	handle(mux, "PUT /plan", func(_ context.Context, plan Plan) (done, error) { return done{}, p.SetPlan(plan) })
	handle(mux, "POST /rules", func(_ context.Context, rules []Rule) (done, error) { return done{}, p.AddRules(rules...) })
	handle(mux, "POST /listen", func(_ context.Context, in struct{ Client, Address string }) (listening, error) {
		if in.Address == "" {
			in.Address = "127.0.0.1:0"
		}
		url, err := p.Listen(in.Address, in.Client)
		return listening{url}, err
	})
	handle(mux, "POST /partition", func(_ context.Context, in struct {
		Client    string
		Direction Direction
	}) (done, error) {
		if in.Direction == "" {
			in.Direction = Both
		}
		return done{}, p.Partition(in.Client, in.Direction)
	})
	handle(mux, "POST /heal", func(_ context.Context, in struct{ Client string }) (done, error) {
		p.Heal(in.Client)
		return done{}, nil
	})
	handle(mux, "PUT /upstreams", func(_ context.Context, upstreams []string) (done, error) { return done{}, p.SetUpstreams(upstreams...) })
	handle(mux, "POST /settle", func(ctx context.Context, _ struct{}) (done, error) {
		ctx, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		return done{}, p.Settle(ctx)
	})
	return mux
}

type done struct{}

type listening struct {
	URL string `json:"url"`
}

// handle serves a route with a function from the body to the answer.
func handle[In, Out any](mux *http.ServeMux, route string, f func(context.Context, In) (Out, error)) {
	mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
		var in In
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		d.DisallowUnknownFields()
		var answer any
		err := d.Decode(&in)
		if err == nil || errors.Is(err, io.EOF) {
			answer, err = f(r.Context(), in)
		}
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			answer = map[string]string{"error": err.Error()}
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
}
