package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// A module is a module's files, read.
type module struct {
	variables map[string]*variable
	locals    map[string]hclsyntax.Expression
	resources map[string]*hclsyntax.Block // by TYPE.NAME
	outputs   map[string]*hclsyntax.Block

	values  map[string]cty.Value // of locals
	busy    map[string]bool      // locals under evaluation
	asked   map[string]bool      // variables and locals that something refers to
	objects map[string]cty.Value // of resources, as expressions see them
}

type variable struct {
	typ   cty.Type
	value cty.Value // cty.NilVal: required, and not given
	rules []*hclsyntax.Block
}

// An instance is a resource, or one of its instances by count or for_each.
type instance struct {
	kind, name, key string
	body            map[string]any // arguments, and blocks as lists
}

func load(dir string) (*module, error) {
	m := &module{
		variables: map[string]*variable{}, locals: map[string]hclsyntax.Expression{}, resources: map[string]*hclsyntax.Block{}, outputs: map[string]*hclsyntax.Block{},
		values: map[string]cty.Value{}, busy: map[string]bool{}, asked: map[string]bool{}, objects: map[string]cty.Value{},
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("terraform: %s has no .tf files: %w", dir, errors.Join(err, os.ErrNotExist))
	}
	parser := hclparse.NewParser()
	for _, name := range files {
		file, diags := parser.ParseHCLFile(name)
		if diags.HasErrors() {
			return nil, diags
		}
		for _, b := range file.Body.(*hclsyntax.Body).Blocks {
			if err := m.add(b); err != nil {
				return nil, err
			}
			if b.Type != "variable" {
				m.refers(b.Body)
			}
		}
	}
	return m, nil
}

// refers notes to which variables and locals a body refers.
func (m *module) refers(b *hclsyntax.Body) {
	_ = hclsyntax.VisitAll(b, func(n hclsyntax.Node) hcl.Diagnostics {
		if t, ok := n.(*hclsyntax.ScopeTraversalExpr); ok && len(t.Traversal) > 1 {
			if step, ok := t.Traversal[1].(hcl.TraverseAttr); ok {
				m.asked[t.Traversal.RootName()+"."+step.Name] = true
			}
		}
		return nil
	})
}

func (m *module) add(b *hclsyntax.Block) error {
	switch b.Type {
	case "terraform", "data": // data sources are those that context knows
	case "variable":
		v := &variable{typ: cty.DynamicPseudoType}
		if a := b.Body.Attributes["type"]; a != nil {
			typ, diags := typeexpr.TypeConstraint(a.Expr)
			if diags.HasErrors() {
				return diags
			}
			v.typ = typ
		}
		if b.Body.Attributes["description"] == nil {
			return fmt.Errorf("terraform: the variable %s has no description", b.Labels[0])
		}
		if a := b.Body.Attributes["default"]; a != nil {
			value, diags := a.Expr.Value(nil)
			if diags.HasErrors() {
				return diags
			}
			if err := v.set(b.Labels[0], value); err != nil {
				return err
			}
		}
		v.rules = b.Body.Blocks
		m.variables[b.Labels[0]] = v
	case "locals":
		for name, a := range b.Body.Attributes {
			m.locals[name] = a.Expr
		}
	case "resource":
		m.resources[b.Labels[0]+"."+b.Labels[1]] = b
	case "output":
		m.outputs[b.Labels[0]] = b
	default:
		return fmt.Errorf("terraform: %s: there is no block %s", b.TypeRange, b.Type)
	}
	return nil
}

func (v *variable) set(name string, value cty.Value) (err error) {
	if v.value, err = convert.Convert(value, v.typ); err != nil {
		return fmt.Errorf("terraform: the variable %s: %w", name, err)
	}
	return nil
}

// set sets a variable to an expression.
func (m *module) set(name, text string) error {
	v := m.variables[name]
	if v == nil {
		return fmt.Errorf("terraform: there is no variable %s; there are %s", name, strings.Join(slices.Sorted(maps.Keys(m.variables)), ", "))
	}
	expr, diags := hclsyntax.ParseExpression([]byte(text), "command line", hcl.InitialPos)
	if diags.HasErrors() {
		return fmt.Errorf("terraform: the variable %s: %w", name, diags)
	}
	value, diags := expr.Value(nil)
	if diags.HasErrors() {
		return fmt.Errorf("terraform: the variable %s: %w", name, diags)
	}
	return v.set(name, value)
}

// evaluate checks the variables, and evaluates all resources and outputs.
func (m *module) evaluate(s schema) (all []instance, err error) {
	for _, name := range slices.Sorted(maps.Keys(m.variables)) {
		v := m.variables[name]
		if v.value == cty.NilVal {
			return nil, fmt.Errorf("terraform: the variable %s is required", name)
		}
		for _, rule := range v.rules {
			ok, err := m.value(rule.Body.Attributes["condition"].Expr, nil)
			if err != nil {
				return nil, err
			}
			if ok.False() {
				message, _ := m.value(rule.Body.Attributes["error_message"].Expr, nil)
				return nil, fmt.Errorf("terraform: %s", message.AsString())
			}
		}
	}
	for _, address := range slices.Sorted(maps.Keys(m.resources)) {
		list, err := m.instances(s, m.resources[address])
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	for _, name := range slices.Sorted(maps.Keys(m.outputs)) {
		if _, err := m.value(m.outputs[name].Body.Attributes["value"].Expr, nil); err != nil {
			return nil, err
		}
		if m.outputs[name].Body.Attributes["description"] == nil {
			return nil, fmt.Errorf("terraform: the output %s has no description", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.variables)) {
		if !m.asked["var."+name] {
			return nil, fmt.Errorf("terraform: nothing uses the variable %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.locals)) {
		if !m.asked["local."+name] {
			return nil, fmt.Errorf("terraform: nothing uses the local value %s", name)
		}
	}
	return all, nil
}

// keys are the instances' keys of a resource, and the values of each: none for a resource of one instance. many reports whether it has count or
// for_each.
func (m *module) keys(b *hclsyntax.Block) (keys []string, each map[string]cty.Value, counted, many bool, err error) {
	if a := b.Body.Attributes["count"]; a != nil {
		n, err := m.value(a.Expr, nil)
		if err != nil {
			return nil, nil, false, false, err
		}
		count, _ := n.AsBigFloat().Int64()
		for i := range count {
			keys = append(keys, fmt.Sprint(i))
		}
		return keys, nil, true, true, nil
	}
	a := b.Body.Attributes["for_each"]
	if a == nil {
		return []string{""}, nil, false, false, nil
	}
	v, err := m.value(a.Expr, nil)
	if err != nil {
		return nil, nil, false, false, err
	}
	each = map[string]cty.Value{}
	for it := v.ElementIterator(); it.Next(); {
		k, value := it.Element()
		keys, each[k.AsString()] = append(keys, k.AsString()), value
	}
	return keys, each, false, true, nil
}

func (m *module) instances(s schema, b *hclsyntax.Block) (list []instance, err error) {
	kind, name := b.Labels[0], b.Labels[1]
	known, ok := s[kind]
	if !ok {
		return nil, fmt.Errorf("terraform: %s: schema.json has no %s; run schema.py", b.TypeRange, kind)
	}
	keys, each, counted, _, err := m.keys(b)
	if err != nil {
		return nil, err
	}
	if err := known.check(kind+"."+name, b.Body, true); err != nil { // also if there is no instance
		return nil, err
	}
	for _, key := range keys {
		scope := map[string]cty.Value{}
		if value, ok := each[key]; ok {
			scope["each"] = cty.ObjectVal(map[string]cty.Value{"key": cty.StringVal(key), "value": value})
		}
		body, err := m.body(b.Body, scope, true)
		if err != nil {
			return nil, err
		}
		if counted {
			key = ""
		}
		list = append(list, instance{kind, name, key, body})
	}
	return list, nil
}

// meta are the arguments that Terraform handles itself.
var meta = []string{"count", "for_each", "depends_on"}

// body evaluates the arguments and blocks of a body. Null arguments are left out.
func (m *module) body(b *hclsyntax.Body, scope map[string]cty.Value, top bool) (map[string]any, error) {
	out := map[string]any{}
	for name, a := range b.Attributes {
		if top && slices.Contains(meta, name) {
			continue
		}
		v, err := m.value(a.Expr, scope)
		if err != nil {
			return nil, err
		}
		if v.IsNull() {
			continue
		}
		data, err := ctyjson.Marshal(v, v.Type())
		if err != nil {
			return nil, err
		}
		var value any
		if err := json.Unmarshal(data, &value); err != nil {
			return nil, err
		}
		out[name] = value
	}
	add := func(name string, body *hclsyntax.Body, scope map[string]cty.Value) error {
		inner, err := m.body(body, scope, false)
		if err != nil {
			return err
		}
		list, _ := out[name].([]any)
		out[name] = append(list, inner)
		return nil
	}
	for _, block := range b.Blocks {
		if block.Type != "dynamic" {
			if err := add(block.Type, block.Body, scope); err != nil {
				return nil, err
			}
			continue
		}
		list, err := m.value(block.Body.Attributes["for_each"].Expr, scope)
		if err != nil {
			return nil, err
		}
		for it := list.ElementIterator(); it.Next(); {
			k, v := it.Element()
			within := maps.Clone(scope)
			within[block.Labels[0]] = cty.ObjectVal(map[string]cty.Value{"key": k, "value": v})
			if err := add(block.Labels[0], block.Body.Blocks[0].Body, within); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// value evaluates an expression, after all that it refers to.
func (m *module) value(expr hclsyntax.Expression, scope map[string]cty.Value) (cty.Value, error) {
	vars, locals, resources := map[string]cty.Value{}, map[string]cty.Value{}, map[string]map[string]cty.Value{}
	for _, t := range expr.Variables() {
		root := t.RootName()
		if _, ok := scope[root]; ok || root == "data" {
			continue
		}
		if len(t) < 2 {
			return cty.NilVal, fmt.Errorf("terraform: %s: there is no %s", t.SourceRange(), root)
		}
		step, ok := t[1].(hcl.TraverseAttr)
		if !ok {
			return cty.NilVal, fmt.Errorf("terraform: %s: %s needs a name", t.SourceRange(), root)
		}
		switch {
		case root == "var":
			v := m.variables[step.Name]
			if v == nil {
				return cty.NilVal, fmt.Errorf("terraform: %s: there is no variable %s", t.SourceRange(), step.Name)
			}
			vars[step.Name] = v.value
		case root == "local":
			value, err := m.local(step.Name)
			if err != nil {
				return cty.NilVal, err
			}
			locals[step.Name] = value
		case strings.HasPrefix(root, "aws_"):
			value, err := m.object(root, step.Name)
			if err != nil {
				return cty.NilVal, err
			}
			if resources[root] == nil {
				resources[root] = map[string]cty.Value{}
			}
			resources[root][step.Name] = value
		default:
			return cty.NilVal, fmt.Errorf("terraform: %s: there is no %s", t.SourceRange(), root)
		}
	}
	ctx := &hcl.EvalContext{Functions: functions, Variables: map[string]cty.Value{"data": data, "var": cty.ObjectVal(vars), "local": cty.ObjectVal(locals)}}
	for kind, byName := range resources {
		ctx.Variables[kind] = cty.ObjectVal(byName)
	}
	maps.Copy(ctx.Variables, scope)
	v, diags := expr.Value(ctx)
	if diags.HasErrors() {
		return cty.NilVal, diags
	}
	return v, nil
}

func (m *module) local(name string) (cty.Value, error) {
	if v, ok := m.values[name]; ok {
		return v, nil
	}
	expr := m.locals[name]
	switch {
	case expr == nil:
		return cty.NilVal, fmt.Errorf("terraform: there is no local value %s", name)
	case m.busy[name]:
		return cty.NilVal, fmt.Errorf("terraform: the local value %s depends on itself", name)
	}
	m.busy[name] = true
	v, err := m.value(expr, nil)
	delete(m.busy, name)
	if err == nil {
		m.values[name] = v
	}
	return v, err
}

// object is a resource as expressions see it: its attributes are references.
func (m *module) object(kind, name string) (cty.Value, error) {
	address := kind + "." + name
	if v, ok := m.objects[address]; ok {
		return v, nil
	}
	b := m.resources[address]
	if b == nil {
		return cty.NilVal, fmt.Errorf("terraform: there is no resource %s", address)
	}
	if m.busy[address] {
		return cty.NilVal, fmt.Errorf("terraform: the instances of %s depend on themselves", address)
	}
	m.busy[address] = true
	keys, _, counted, many, err := m.keys(b)
	delete(m.busy, address)
	if err != nil {
		return cty.NilVal, err
	}
	one := func(key string) cty.Value {
		attributes := map[string]cty.Value{}
		for attribute, form := range references[kind] {
			attributes[attribute] = cty.StringVal(strings.ReplaceAll(form, "@", logical(kind, name, key)))
		}
		return cty.ObjectVal(attributes)
	}
	value := one("")
	if many {
		byKey, list := map[string]cty.Value{}, []cty.Value{}
		for _, key := range keys {
			byKey[key], list = one(key), append(list, one(""))
		}
		if value = cty.ObjectVal(byKey); counted {
			value = cty.TupleVal(list)
		}
	}
	m.objects[address] = value
	return value, nil
}

// data are the values of the data sources.
var data = cty.ObjectVal(map[string]cty.Value{
	"aws_caller_identity": current(map[string]cty.Value{"account_id": cty.StringVal("${AWS::AccountId}")}),
	"aws_partition":       current(map[string]cty.Value{"partition": cty.StringVal("${AWS::Partition}"), "dns_suffix": cty.StringVal("${AWS::URLSuffix}")}),
	"aws_region":          current(map[string]cty.Value{"region": cty.StringVal("${AWS::Region}")}),
})

func current(attributes map[string]cty.Value) cty.Value {
	return cty.ObjectVal(map[string]cty.Value{"current": cty.ObjectVal(attributes)})
}

// functions are those of Terraform that the module uses.
var functions = map[string]function.Function{
	"can": tryfunc.CanFunc, "concat": stdlib.ConcatFunc, "contains": stdlib.ContainsFunc, "flatten": stdlib.FlattenFunc, "join": stdlib.JoinFunc,
	"jsonencode": stdlib.JSONEncodeFunc, "keys": stdlib.KeysFunc, "length": stdlib.LengthFunc, "lookup": stdlib.LookupFunc, "lower": stdlib.LowerFunc,
	"merge": stdlib.MergeFunc, "regex": stdlib.RegexFunc, "sort": stdlib.SortFunc, "substr": stdlib.SubstrFunc, "upper": stdlib.UpperFunc,
	"tolist": stdlib.MakeToFunc(cty.List(cty.DynamicPseudoType)), "tostring": stdlib.MakeToFunc(cty.String),
	"alltrue": function.New(&function.Spec{
		Params: []function.Parameter{{Name: "list", Type: cty.List(cty.Bool)}}, Type: function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			all := cty.True
			for it := args[0].ElementIterator(); it.Next(); {
				_, v := it.Element()
				all = all.And(v)
			}
			return all, nil
		},
	}),
	"filebase64sha256": function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}}, Type: function.StaticReturnType(cty.String),
		Impl: func([]cty.Value, cty.Type) (cty.Value, error) { return cty.StringVal("hash"), nil },
	}),
	"startswith": function.New(&function.Spec{
		Params: []function.Parameter{{Name: "text", Type: cty.String}, {Name: "prefix", Type: cty.String}}, Type: function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.BoolVal(strings.HasPrefix(args[0].AsString(), args[1].AsString())), nil
		},
	}),
}
