package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A badInput is the error of a request that is not valid, or not here: its code is invalid_request, payload_too_large or
// notify_refused.
type badInput struct {
	code   wire.Code
	field  string
	detail string // what is wrong and what to send instead
}

func (e *badInput) Error() string { return e.detail }

func invalid(field, format string, args ...any) error {
	return &badInput{wire.InvalidRequest, field, fmt.Sprintf(format, args...)}
}

// An object is a JSON object whose fields are read one by one. It keeps the first error, and knows which fields were not read:
// those are unknown.
type object struct {
	where  string // what error texts call a field: "field" or "query parameter"
	fields map[string]json.RawMessage
	taken  []string // the names of the fields that were read, each once
	err    error
}

func newObject() *object { return &object{where: "field", fields: map[string]json.RawMessage{}} }

// parseObject decodes exactly one JSON object: in valid UTF-8, without duplicate keys (metadata checks those of nested objects), and
// with nothing after it.
func parseObject(data []byte) (*object, error) {
	if len(data) > wire.MaxBody {
		return nil, &badInput{wire.PayloadTooLarge, "body", fmt.Sprintf("the body is %d bytes long; at most %d are allowed", len(data), wire.MaxBody)}
	}
	if !utf8.Valid(data) {
		return nil, invalid("body", "the body is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, invalid("body", "the body is not a JSON object; send one, like {\"ttl_ms\": 60000}")
	}
	o := newObject()
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		key, _ := t.(string) // the decoder accepts nothing else here
		if _, twice := o.fields[key]; twice {
			return nil, invalid(fieldName(key), "the field %q is there twice; send it once", brief([]byte(key)))
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, notJSON(err)
		}
		if escape := loneSurrogate(raw); escape != "" {
			return nil, invalid(fieldName(key), "%s has %s, half of a surrogate pair, which is no character; send the whole pair, or UTF-8", brief([]byte(key)), escape)
		}
		o.fields[key] = raw
	}
	if _, err := d.Token(); err != nil {
		return nil, notJSON(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid("body", "there is something after the JSON object; send one value only")
	}
	return o, nil
}

// loneSurrogate returns an escape for half of a surrogate pair without the other half, or "". The value is valid JSON. Such an
// escape stands for no character: decoders refuse it or replace it.
func loneSurrogate(raw []byte) string {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		i++ // the escaped character
		if raw[i] != 'u' {
			continue
		}
		first, second := escape(raw[i-1:]), escape(raw[i+5:])
		switch {
		case utf16.DecodeRune(first, second) != unicode.ReplacementChar: // a pair
			i += 10
		case utf16.IsSurrogate(first):
			return string(raw[i-1 : i+5])
		}
	}
	return ""
}

// escape returns the code unit of the \u escape at the start of text, or 0.
func escape(text []byte) rune {
	if !bytes.HasPrefix(text, []byte(`\u`)) {
		return 0
	}
	n, _ := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n)
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("body", "the body is not JSON: it ends too soon")
	}
	return invalid("body", "the body is not JSON: %v", err)
}

func (o *object) fail(field, format string, args ...any) {
	o.refuse(wire.InvalidRequest, field, format, args...)
}

// refuse keeps an error with a code of its own, if it is the first.
func (o *object) refuse(code wire.Code, field, format string, args ...any) {
	if o.err == nil {
		o.err = &badInput{code, field, fmt.Sprintf(format, args...)}
	}
}

// raw reads a field in its JSON form; nil if it is absent.
func (o *object) raw(field string) json.RawMessage {
	raw := o.fields[field]
	if raw != nil && !slices.Contains(o.taken, field) {
		o.taken = append(o.taken, field)
	}
	return raw
}

// str reads a string.
func (o *object) str(field string) (s string, present bool) {
	raw := o.raw(field)
	if raw == nil {
		return "", false
	}
	if raw[0] != '"' {
		o.fail(field, "%s is %s; it must be a string", field, kind(raw))
		return "", false
	}
	_ = json.Unmarshal(raw, &s) // raw is a JSON string
	return s, true
}

// integer reads a whole number from least to most. unit follows the limits in the error text.
func (o *object) integer(field string, least, most int64, unit string) (n int64, present bool) {
	raw := o.raw(field)
	if raw == nil {
		return 0, false
	}
	if c := raw[0]; c != '-' && (c < '0' || c > '9') {
		is := kind(raw)
		if o.where == "query parameter" { // every query parameter is a string
			is = brief(raw)
		}
		o.fail(field, "%s is %s; it must be a whole number%s", field, is, of(unit))
		return 0, false
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		o.fail(field, "%s is %s; it must be a whole number%s, without fraction or exponent", field, brief(raw), of(unit))
	case err != nil || n < least || n > most:
		o.fail(field, "%s is %s; it must be from %d to %d%s", field, brief(raw), least, most, unit)
	}
	return n, true
}

func of(unit string) string {
	if unit == "" {
		return ""
	}
	return " of" + unit
}

// metadata reads a JSON object within the limits of metadata, in compact form; "" if it is absent.
func (o *object) metadata() (compact string, present bool) {
	raw := o.raw("metadata")
	if raw == nil {
		return "", false
	}
	if raw[0] != '{' {
		o.fail("metadata", "metadata is %s; it must be an object", kind(raw))
		return "", false
	}
	if len(raw) > wire.MaxMetadata {
		o.fail("metadata", "metadata is %d bytes long; at most %d are allowed", len(raw), wire.MaxMetadata)
		return "", false
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // numbers of any size are allowed
	if problem := checkNesting(d, 0); problem != "" {
		o.fail("metadata", "metadata %s", problem)
		return "", false
	}
	var b bytes.Buffer
	_ = json.Compact(&b, raw) // raw is valid JSON
	return b.String(), true
}

// checkNesting checks the next value, which is valid JSON and lies within depth others.
func checkNesting(d *json.Decoder, depth int) string {
	t, _ := d.Token()
	begin, nested := t.(json.Delim)
	if !nested {
		return ""
	}
	if depth == wire.MaxMetadataDepth {
		return fmt.Sprintf("is nested deeper than %d levels", wire.MaxMetadataDepth)
	}
	keys := map[string]bool{}
	for d.More() {
		if begin == '{' {
			t, _ := d.Token()
			key, _ := t.(string)
			if keys[key] {
				return fmt.Sprintf("has the key %q twice; send it once", brief([]byte(key)))
			}
			keys[key] = true
		}
		if problem := checkNesting(d, depth+1); problem != "" {
			return problem
		}
	}
	_, _ = d.Token() // the closing delimiter
	return ""
}

// done returns the first error, or an error for a field that was not read.
func (o *object) done() error {
	if o.err != nil {
		return o.err
	}
	if len(o.taken) == len(o.fields) {
		return nil
	}
	for _, field := range slices.Sorted(maps.Keys(o.fields)) {
		if !slices.Contains(o.taken, field) {
			return invalid(fieldName(field), "the %s %q is unknown; leave it out, or correct its name", o.where, brief([]byte(field)))
		}
	}
	return nil
}

// fieldName returns the Field of a problem about a key, which may be any text.
func fieldName(key string) string {
	if key == "" {
		return "body" // an empty Field would be omitted
	}
	return brief([]byte(key))
}

// kind names the type of a JSON value, for error texts.
func kind(raw json.RawMessage) string {
	switch raw[0] {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null, which is not the same as leaving it out"
	}
	return "a number"
}

// brief returns a value for an error text, cut to 40 bytes.
func brief(raw []byte) string {
	const most = 40
	if len(raw) <= most {
		return string(raw)
	}
	return strings.ToValidUTF8(string(raw[:most]), "") + "…"
}
