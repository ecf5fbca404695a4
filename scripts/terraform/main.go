// Command terraform evaluates the module terraform/ without Terraform and without its AWS provider, checks what it says against the
// provider's schema, and writes the resources that it makes as a CloudFormation template, which scripts/cloud/parity.py compares with
// template.yaml:
//
//	terraform [-module DIRECTORY] [-schema FILE] [VARIABLE=VALUE...]
//
// A value is an expression of Terraform's. The variable name is set to what stands for the stack's name. Every expression of the module is evaluated, with the
// attributes that only AWS knows as references to the resource. What the comparison does not know is an error: a type of resource, an argument,
// an attribute, a function.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	dir := flag.String("module", "terraform", "the module")
	schema := flag.String("schema", "scripts/terraform/schema.json", "the provider's schema, as schema.py writes it")
	flag.Parse()
	template, err := run(*dir, *schema, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	out, err := json.MarshalIndent(template, "", " ")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(out))
}

// standIn is the variable name, which template replaces by a reference to the stack's name.
const standIn = "Stand-in"

// run evaluates a module with some variables, NAME=EXPRESSION each.
func run(dir, schemaFile string, given []string) (map[string]any, error) {
	m, err := load(dir)
	if err != nil {
		return nil, err
	}
	s, err := loadSchema(schemaFile)
	if err != nil {
		return nil, err
	}
	for _, g := range append([]string{"name=" + fmt.Sprintf("%q", standIn)}, given...) {
		name, text, ok := strings.Cut(g, "=")
		if !ok {
			return nil, fmt.Errorf("terraform: %q is no variable; give NAME=VALUE", g)
		}
		if err := m.set(name, text); err != nil {
			return nil, err
		}
	}
	instances, err := m.evaluate(s)
	if err != nil {
		return nil, err
	}
	return template(instances)
}
