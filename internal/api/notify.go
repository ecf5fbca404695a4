package api

import (
	"fmt"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// maxQueueName is how long the name of an SQS queue may be.
const maxQueueName = 80

// notification reads where a waiter is notified; nil if the request does not say it, or wrongly.
func (a *API) notification(c *call) *wire.Notify {
	raw := c.fields.raw("notify")
	if raw == nil {
		return nil
	}
	if raw[0] != '{' {
		c.fields.fail("notify", "notify is %s; it must be an object, like {\"queue\": \"https://sqs…\", \"id\": \"1\"}", kind(raw))
		return nil
	}
	o, err := parseObject(raw)
	if err != nil {
		c.fields.fail("notify", "notify: %v", err)
		return nil
	}
	var n wire.Notify
	var hasQueue, hasID bool
	n.Queue, hasQueue = o.str("queue")
	n.ID, hasID = o.str("id")
	problem := a.checkQueue(n.Queue)
	switch err := o.done(); {
	case err != nil:
		c.fields.fail("notify", "notify: %v", err)
	case !hasQueue || !hasID:
		c.fields.fail("notify", "notify lacks queue or id; give both")
	case a.notify == "":
		c.fields.refuse(wire.NotifyRefused, "notify", "this deployment sends no notifications; leave notify out, and poll")
	case problem != "":
		c.fields.fail("notify", "the queue of notify %s", problem)
	case n.ID == "" || len(n.ID) > wire.MaxNotifyID || wire.CheckToken(n.ID) != "":
		c.fields.fail("notify", "the id of notify is %q; give 1 to %d printable characters of ASCII, without spaces", brief([]byte(n.ID)), wire.MaxNotifyID)
	default:
		return &n
	}
	return nil
}

// checkQueue returns what is wrong with the URL of a queue of notifications, or "".
func (a *API) checkQueue(url string) string {
	name, ours := strings.CutPrefix(url, a.notify)
	whole := a.notify[strings.LastIndexByte(a.notify, '/')+1:] + name
	switch {
	case len(url) > wire.MaxQueueURL:
		return fmt.Sprintf("is %d bytes long; at most %d are allowed", len(url), wire.MaxQueueURL)
	case !ours:
		return fmt.Sprintf("is %q; this deployment sends to queues whose URL begins with %q", brief([]byte(url)), a.notify)
	case name == "" || len(whole) > maxQueueName || strings.ContainsFunc(name, notOfQueueName):
		return fmt.Sprintf("has the name %q; give the URL of a standard queue, as SQS answers it", brief([]byte(whole)))
	}
	return ""
}

func notOfQueueName(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-'
}
