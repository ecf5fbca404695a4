package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// A schema has what the provider takes, by type of resource.
type schema map[string]blockSchema

type blockSchema struct {
	Arguments map[string]string // required or optional
	Blocks    map[string]struct {
		blockSchema
		Required bool
	}
}

func loadSchema(file string) (s schema, err error) {
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	return s, err
}

// check returns an error if a body has an argument or block that the provider does not take, or lacks one that it requires.
func (s blockSchema) check(where string, b *hclsyntax.Body, top bool) error {
	for name, a := range b.Attributes {
		if s.Arguments[name] == "" && (!top || !slices.Contains(meta, name)) {
			return fmt.Errorf("terraform: %s: %s takes no argument %s", a.SrcRange, where, name)
		}
	}
	given := map[string]bool{}
	for _, block := range b.Blocks {
		name, body := block.Type, block.Body
		if name == "dynamic" {
			if name = block.Labels[0]; len(body.Blocks) != 1 || body.Blocks[0].Type != "content" || body.Attributes["for_each"] == nil {
				return fmt.Errorf("terraform: %s: a dynamic block needs for_each and content", block.TypeRange)
			}
			body = body.Blocks[0].Body
		}
		inner, ok := s.Blocks[name]
		if !ok {
			return fmt.Errorf("terraform: %s: %s takes no block %s", block.TypeRange, where, name)
		}
		given[name] = true
		if err := inner.check(where+"."+name, body, false); err != nil {
			return err
		}
	}
	for name, need := range s.Arguments {
		if need == "required" && b.Attributes[name] == nil {
			return fmt.Errorf("terraform: %s: %s lacks the argument %s, which is required", b.SrcRange, where, name)
		}
	}
	for name, inner := range s.Blocks {
		if inner.Required && !given[name] {
			return fmt.Errorf("terraform: %s: %s lacks the block %s, which is required", b.SrcRange, where, name)
		}
	}
	return nil
}
