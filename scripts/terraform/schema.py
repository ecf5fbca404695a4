#!/usr/bin/env python3
"""schema.py PACKAGE: writes schema.json, the arguments that version 6.25.0 of Terraform's AWS provider takes in the resources that terraform/
uses: for each its arguments ("required" or "optional") and its blocks. PACKAGE is the directory of an unpacked @cdktf/provider-aws@21.22.1
(npm pack), whose declarations are generated from the provider's own schema. The result is in the repository; run this for another version."""
import json, pathlib, re, sys

package, here = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parent
module = here / "../../terraform"
used = sorted({t for f in module.glob("*.tf") for t in re.findall(r'^resource "aws_(\w+)"', f.read_text(), re.M)})
META = {"connection", "count", "depends_on", "for_each", "lifecycle", "provider", "provisioners"}


def interfaces(text):
    """The interfaces of a file of declarations: name -> [(argument, required, type)]."""
    found = {}
    for name, body in re.findall(r"export interface (\w+)[^{]*\{\n(.*?)\n\}", text, re.S):
        members = re.findall(r"#(\w+) \w+#\w+\}(?:(?!readonly).)*readonly \w+(\??): ([^;]+);", body, re.S)
        found[name] = [(arg, optional == "", kind) for arg, optional, kind in members]
    return found


def block(name, all_of):
    arguments, blocks = {}, {}
    for arg, required, kind in all_of[name]:
        inner = re.match(r"\w*", kind)[0]
        if inner in all_of:
            blocks[arg] = dict(block(inner, all_of), required=required)
        elif arg not in META:
            arguments[arg] = "required" if required else "optional"
    return {"arguments": arguments, "blocks": blocks}


schema = {}
for resource in used:
    folder = package / "lib" / resource.replace("_", "-")
    all_of = interfaces("\n".join(f.read_text() for f in sorted(folder.glob("*.d.ts"))))
    top = next(n for n in all_of if n.endswith("Config") and n[:-6].lower() == resource.replace("_", ""))
    schema["aws_" + resource] = block(top, all_of)
(here / "schema.json").write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n")
print(f"{len(schema)} resources, {sum(len(r['arguments']) + len(r['blocks']) for r in schema.values())} arguments and blocks")
