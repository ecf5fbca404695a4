package local

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

const (
	handlerTimeout = 10 * time.Second // of one invocation, as Lambda ends a function
	maxBody        = 1 << 20          // bytes; the API refuses smaller bodies too
)

// A Gateway does API Gateway's work on one machine: it turns each HTTP request into an event of payload format 2.0, invokes the
// handler of the request's route with it, as Lambda does, and turns the handler's answer into the response. It has no
// authorizer, so its events name no caller and leases have no principal.
type Gateway struct {
	live   http.Handler              // serves GET /v1/events; nil: there is no such route, as in AWS, where events come from EventBridge
	routes map[string]lambda.Handler // by "METHOD /path/{name}"
	log    *slog.Logger
}

// NewGateway makes a gateway to an API. It serves the API's routes only.
func NewGateway(a *api.API, log *slog.Logger) *Gateway {
	g := &Gateway{log: log, routes: map[string]lambda.Handler{}}
	for _, op := range wire.Ops() {
		method, path := op.Route()
		g.routes[method+" "+path] = a.Handler(op)
	}
	return g
}

// ServeHTTP implements [http.Handler].
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := rand.Text()
	pattern, params, err := parsePath(r.URL.EscapedPath())
	if err != nil {
		problem(w, wire.InvalidRequest, "the path is not percent-encoded right", id)
		return
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		problem(w, wire.InvalidRequest, "the query is not percent-encoded right, or has a semicolon", id)
		return
	}
	route := r.Method + " " + pattern
	if g.live != nil && route == eventsRoute {
		g.live.ServeHTTP(w, r)
		return
	}
	handler, ok := g.routes[route]
	if !ok {
		g.noRoute(w, r, pattern, id)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		problem(w, wire.PayloadTooLarge, fmt.Sprintf("the body is larger than %d bytes, or did not arrive whole", maxBody), id)
		return
	}
	resp, err := invoke(r.Context(), handler, newEvent(r, route, params, body, id))
	if err != nil {
		g.log.Error("gateway", "error", err, "request_id", id)
		problem(w, wire.Internal, "this is a bug; the log has more under this request_id", id)
		return
	}
	for k, v := range resp.Headers {
		w.Header().Set(k, v)
	}
	w.Header().Set("Apigw-Requestid", id)
	w.WriteHeader(resp.StatusCode)
	_, _ = io.WriteString(w, resp.Body)
}

// invoke invokes a handler as Lambda does.
func invoke(ctx context.Context, h lambda.Handler, event events.APIGatewayV2HTTPRequest) (resp events.APIGatewayV2HTTPResponse, err error) {
	payload, err := json.Marshal(event)
	if err != nil {
		return resp, err
	}
	ctx = lambdacontext.NewContext(ctx, &lambdacontext.LambdaContext{AwsRequestID: event.RequestContext.RequestID})
	ctx, cancel := context.WithTimeout(ctx, handlerTimeout)
	defer cancel()
	answer, err := h.Invoke(ctx, payload)
	if err != nil {
		return resp, err
	}
	return resp, json.Unmarshal(answer, &resp)
}

// noRoute answers a request whose path matches no route, or whose method is not the path's.
func (g *Gateway) noRoute(w http.ResponseWriter, r *http.Request, pattern, id string) {
	if methods := strings.Join(g.methods(pattern), ", "); methods != "" {
		w.Header().Set("Allow", methods)
		problem(w, wire.MethodNotAllowed, r.Method+" is not what this route takes; use "+methods, id)
		return
	}
	problem(w, wire.NotFound, "there is no "+r.URL.EscapedPath()+"; routes are "+g.list(), id)
}

const eventsRoute = "GET /v1/events"

// list returns the routes, for an error text.
func (g *Gateway) list() string {
	text := "/v1/locks, /v1/locks/{name}, /v1/locks/{name}/acquire, renew, release, force-release, /v1/sets/{scope}/acquire, renew, release, /v1/history/{name}, /v1/rules and /v1/rules/{prefix}"
	if g.live != nil {
		text = "/v1/events, " + text
	}
	return text
}

// methods returns the methods of the routes with a pattern.
func (g *Gateway) methods(pattern string) (list []string) {
	if g.live != nil && "GET "+pattern == eventsRoute {
		return []string{http.MethodGet}
	}
	for route := range g.routes {
		if method, p, _ := strings.Cut(route, " "); p == pattern {
			list = append(list, method)
		}
	}
	slices.Sort(list)
	return list
}

// parsePath returns the pattern of the route that a path matches, with the lock's name, or the scope of a set, decoded once.
func parsePath(escaped string) (pattern string, params map[string]string, err error) {
	parts := strings.Split(escaped, "/") // "", "v1", "locks", "sets", "rules" or "history", the variable, and of locks and sets the operation
	variables := map[string]string{"locks": "name", "sets": "scope", "rules": "prefix", "history": "name"}
	if len(parts) >= 4 && parts[1] == "v1" && variables[parts[2]] != "" && parts[3] != "" {
		value, err := url.PathUnescape(parts[3])
		if err != nil {
			return "", nil, err
		}
		variable := variables[parts[2]]
		params = map[string]string{variable: value}
		parts[3] = "{" + variable + "}"
	}
	return strings.Join(parts, "/"), params, nil
}

// newEvent returns the event that API Gateway would send: with header names in lower case, repeated values joined by commas, and the
// body in base64 if it is not text.
func newEvent(r *http.Request, route string, params map[string]string, body []byte, id string) events.APIGatewayV2HTTPRequest {
	headers := map[string]string{"host": r.Host}
	for k, v := range r.Header {
		headers[strings.ToLower(k)] = strings.Join(v, ",")
	}
	query := map[string]string{}
	for k, v := range r.URL.Query() {
		query[k] = strings.Join(v, ",")
	}
	ip, _, _ := net.SplitHostPort(r.RemoteAddr)
	now := time.Now().UTC()
	e := events.APIGatewayV2HTTPRequest{
		Version: "2.0", RouteKey: route, RawPath: rawPath(r.URL), RawQueryString: r.URL.RawQuery, Headers: headers,
		QueryStringParameters: query, PathParameters: params, Body: string(body),
		RequestContext: events.APIGatewayV2HTTPRequestContext{
			RouteKey: route, Stage: "$default", RequestID: id, Time: now.Format("02/Jan/2006:15:04:05 -0700"), TimeEpoch: now.UnixMilli(),
			HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{
				Method: r.Method, Path: rawPath(r.URL), Protocol: r.Proto, SourceIP: ip, UserAgent: r.UserAgent(),
			},
		},
	}
	if !isText(r.Header.Get("Content-Type")) || !utf8.Valid(body) {
		e.Body, e.IsBase64Encoded = base64.StdEncoding.EncodeToString(body), true
	}
	return e
}

// rawPath returns a path in API Gateway's form: decoded, except for percent signs.
func rawPath(u *url.URL) string {
	path, err := url.PathUnescape(strings.ReplaceAll(u.EscapedPath(), "%25", "%2525"))
	if err != nil {
		return u.EscapedPath()
	}
	return path
}

func isText(contentType string) bool {
	media, _, _ := mime.ParseMediaType(contentType)
	return media == "" || strings.HasPrefix(media, "text/") || strings.HasSuffix(media, "json") || strings.HasSuffix(media, "xml") ||
		media == "application/javascript" || media == "application/x-www-form-urlencoded"
}

func problem(w http.ResponseWriter, code wire.Code, detail, id string) {
	p := wire.NewProblem(code, id)
	p.Detail = detail
	write(w, p)
}

// refuse answers a problem about a field of the request; an empty field means that it is about none.
func refuse(w http.ResponseWriter, code wire.Code, field, detail string) {
	p := wire.NewProblem(code, rand.Text())
	p.Field, p.Detail = field, detail
	write(w, p)
}

func write(w http.ResponseWriter, p *wire.Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}
