"""sbom.py SCHEMAS LICENSED BILL...: checks bills of materials against CycloneDX's schemas, and the licences of the bill LICENSED."""

import json
import pathlib
import sys

import jsonschema_rs

# Licences that ask for notices; MPL-2.0 also asks for the source of its own files where they were changed, which they are not.
ALLOWED = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "Unlicense", "0BSD"}
# What the licence of these modules is taken for, and what it is: the text of BSD-3-Clause with Google's name.
TAKEN_FOR = {("golang.org/x/", "BSD-Source-Code"): "BSD-3-Clause"}


def read(folder):
    return {name: json.loads((folder / name).read_text()) for name in ("bom-1.6.schema.json", "spdx.schema.json", "jsf-0.82.schemax.json")}


def main():
    folder, licensed, *bills = map(pathlib.Path, sys.argv[1:])
    schemas = read(folder)
    base = "http://cyclonedx.org/schema/"  # as the schemas refer to each other
    resources = [(base + "spdx.SNAPSHOT.schema.json", schemas["spdx.schema.json"]), (base + "jsf-0.82.SNAPSHOT.schema.json", schemas["jsf-0.82.schemax.json"])]
    known = jsonschema_rs.Registry(resources)
    validator = jsonschema_rs.validator_for(schemas["bom-1.6.schema.json"], registry=known)
    failed = []
    for bill in [licensed, *bills]:
        for error in validator.iter_errors(json.loads(bill.read_text())):
            failed.append(f"{bill}: {error.message[:200]}")
    parts = set()
    for bill in bills:
        content = json.loads(bill.read_text())
        if not content.get("components") or "std" not in {c["name"] for c in content["components"]}:
            failed.append(f"{bill}: it lists no components, or lacks Go's standard library")
        parts |= {c["purl"].split("?")[0] for c in content.get("components", [])}
    for c in json.loads(licensed.read_text()).get("components", []):
        found = {entry["license"].get("id", entry["license"].get("name")) for entry in c.get("licenses", []) if "license" in entry}
        for (prefix, taken), real in TAKEN_FOR.items():
            if c["name"].startswith(prefix) and taken in found:
                found.add(real)
        if not found or not found & ALLOWED:
            failed.append(f"{c['name']}: licence {sorted(found) or 'not recognised'}; allowed are {sorted(ALLOWED)}")
    if failed:
        sys.exit("sbom: " + "\nsbom: ".join(failed))
    print(f"sbom: {len(bills)} bills with {len(parts)} components conform to CycloneDX 1.6; the licences are allowed")


main()
