#!/usr/bin/env python3
"""parity.py TEMPLATE OTHER [PARAMETER=VALUE...]: fails unless the SAM template with these parameters, transformed offline, and OTHER, the
synthesised CDK template or what scripts/terraform makes of the Terraform module, define the same system: functions, environment, every policy statement, event sources and filters, table,
bus, queues, routes, log groups and alarms. Prints the number of compared resources and the allowed differences."""
import json, os, re, sys

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

# Allowed differences with their reasons. A pattern matches "resource: property".
ALLOWED = {
    r"^Dashboard$": "SAM has no short form of a dashboard; the CDK draws it",
    r"^Bus: Name$": "names the bus: CDK by the construct's path, SAM by the stack",
    r"^(Acquire|Renew|Release|Status|ForceRelease|Rules|Expire|Stream|Redrive): Code: ": "assets against sam build's output; the same sources",
    r": HOLDFAST_DYNAMODB_ENDPOINT$": "for sam local; empty in AWS",
    r"^.*: Architectures$": "the local cloud runs this machine's; both default to arm64",
    r"^ExecutionsEnd: EventPattern: detail: stateMachineArn$": "a template cannot take the * off a name, so SAM's rule has wildcards",
    r"^(Acquire|Renew|Release|Status|ForceRelease|Rules|Expire|Stream|Redrive): Tags$": "SAM marks what it made",
    r"^(Acquire|Renew|Release|Status|ForceRelease|Rules|Expire|Stream)(Version)?: Description$": "the CDK knows by a hash when to publish a version, SAM is told by DeployedVersion",
}


def sam(path, given):
    template = yaml_parse(open(path).read())
    for r in template["Resources"].values():
        if r["Type"] == "AWS::Serverless::Function":  # as `sam package` leaves it
            r["Properties"]["CodeUri"] = "s3://bucket/key"
    unknown = set(given) - set(template["Parameters"])
    if unknown:
        sys.exit(f"parity: {path} has no parameter {', '.join(sorted(unknown))}")
    parameters = {k: given.get(k, v.get("Default")) for k, v in template["Parameters"].items()}
    translated = Translator({}, Parser()).translate(template, parameters)
    translated["Parameters"] = template["Parameters"]
    kinds = {"Number": int, "CommaDelimitedList": lambda v: v.split(",")}
    return resolve(translated, {k: kinds.get(template["Parameters"][k]["Type"], str)(v) for k, v in parameters.items()})


NOTHING = object()


def resolve(template, parameters):
    """The template with its conditions decided and its parameters put in."""
    conditions = template.get("Conditions", {})

    def holds(c):
        if "Condition" in c:
            return holds(conditions[c["Condition"]])
        if "Fn::Equals" in c:
            a, b = map(go, c["Fn::Equals"])
            return str(a) == str(b)
        if "Fn::Not" in c:
            return not holds(c["Fn::Not"][0])
        return (all if "Fn::And" in c else any)(holds(x) for x in c.get("Fn::And") or c["Fn::Or"])

    def go(v):
        if isinstance(v, list):
            return [x for x in map(go, v) if x is not NOTHING]
        if not isinstance(v, dict):
            return v
        if set(v) == {"Fn::If"}:
            condition, yes, no = v["Fn::If"]
            return go(yes if holds({"Condition": condition}) else no)
        if set(v) == {"Fn::Join"}:
            between, parts = v["Fn::Join"][0], go(v["Fn::Join"][1])
            return between.join(parts) if isinstance(parts, list) and all(isinstance(x, str) for x in parts) else {"Fn::Join": [between, parts]}
        if set(v) == {"Ref"}:
            return NOTHING if v["Ref"] == "AWS::NoValue" else parameters.get(v["Ref"], v)
        if set(v) == {"Fn::Sub"} and isinstance(v["Fn::Sub"], str):
            return {"Fn::Sub": re.sub(r"\$\{(\w+)\}", lambda m: str(parameters.get(m[1], m[0])), v["Fn::Sub"])}
        return {k: x for k, x in ((k, go(x)) for k, x in v.items()) if x is not NOTHING}

    kept = {k: r for k, r in template["Resources"].items() if "Condition" not in r or holds({"Condition": r["Condition"]})}
    outputs = [k for k, o in template.get("Outputs", {}).items() if "Condition" not in o or holds({"Condition": o["Condition"]})]
    return {"Resources": {k: {a: b for a, b in go(r).items() if a != "Condition"} for k, r in kept.items()}, "Outputs": sorted(outputs)}


def short(logical):
    """The name of a resource: without the construct's, "Locks", and the CDK's hashes."""
    version = re.fullmatch(r"Locks(\w+)CurrentVersion[0-9A-F]{8}[0-9a-f]{32}", logical)
    cdk = re.fullmatch(r"Locks(\w+?)[0-9A-F]{8}", logical)
    return version[1] + "Version" if version else cdk[1] if cdk else logical


def references(template):
    return {logical: short(logical) for logical in template["Resources"]}


def plain(value, names):
    """References as ${Name.Attribute}, joins as one string, single items as lists, sets sorted."""
    go = lambda v: plain(v, names)
    if isinstance(value, dict):
        if set(value) == {"Ref"}:
            return "${%s}" % names.get(value["Ref"], value["Ref"])
        if set(value) == {"Fn::GetAtt"}:
            target = value["Fn::GetAtt"] if isinstance(value["Fn::GetAtt"], list) else value["Fn::GetAtt"].split(".", 1)
            return "${%s.%s}" % (names.get(target[0], target[0]), target[1])
        if set(value) == {"Fn::Join"}:
            return value["Fn::Join"][0].join(str(v) for v in go(value["Fn::Join"][1]))
        if set(value) == {"Fn::Split"} and isinstance(go(value["Fn::Split"][1]), str):
            return go(value["Fn::Split"][1]).split(value["Fn::Split"][0])
        if set(value) == {"Fn::Sub"}:
            text, given = value["Fn::Sub"], {}
            if isinstance(text, list):
                text, given = text[0], {k: go(v) for k, v in text[1].items()}
            text = re.sub(r"\$\{(\w+)\}", lambda m: given.get(m[1], m[0]), text)
            text = re.sub(r"\$\{([^}.]+)", lambda m: "${" + names.get(m[1], m[1]), text)
            return re.sub(r"\$\{(\w+)\.Arn\}:live\b", r"${\1Live}", text)
        return {k: go(v) for k, v in value.items()}
    if isinstance(value, list):
        return [go(v) for v in value]
    return value


def statements(documents):
    """The statements, of which those that differ in their actions alone are one, as the CDK makes them."""
    flat = lambda v: sorted(v) if isinstance(v, list) else [v]
    merged = {}
    for s in (s for d in documents for s in d["Statement"]):
        rest = json.dumps([s["Effect"], s.get("Principal"), flat(s["Resource"]), s.get("Condition")], sort_keys=True)
        merged.setdefault(rest, set()).update(flat(s["Action"]))
    return sorted(json.dumps([sorted(actions), rest]) for rest, actions in merged.items())


def system(template):
    """The parts of a template by name."""
    names, parts, routes, integrations = references(template), {}, {}, {}
    for logical, r in template["Resources"].items():
        name, kind = names[logical], r["Type"]
        p = plain(r.get("Properties", {}), names)
        if kind == "AWS::Lambda::Function":
            p["Environment"] = {k: str(v) for k, v in p.get("Environment", {}).get("Variables", {}).items()}
            if p.get("TracingConfig") == {"Mode": "PassThrough"}:  # the default
                del p["TracingConfig"]
        elif kind == "AWS::IAM::Role":
            p = {"Statements": statements(d["PolicyDocument"] for d in p.get("Policies", [])), "Managed": p.get("ManagedPolicyArns", []), "Assume": [s["Principal"] for s in p["AssumeRolePolicyDocument"]["Statement"]]}
        elif kind == "AWS::Lambda::EventSourceMapping":
            name = "Source of " + re.sub(r"[${}]", "", p["FunctionName"])
            p["FunctionName"] = re.sub(r"[${}]", "", p["FunctionName"])
            for f in p.get("FilterCriteria", {}).get("Filters", []):
                f["Pattern"] = json.loads(f["Pattern"])
        elif kind == "AWS::EC2::VPCEndpoint":
            p["PolicyDocument"] = statements([p["PolicyDocument"]])
        elif kind == "AWS::CloudWatch::Alarm":
            for m in p.get("Metrics", []):
                m.setdefault("ReturnData", True)
        elif kind == "AWS::SQS::QueuePolicy":
            p["PolicyDocument"]["Statement"] = [{k: v for k, v in s.items() if k != "Sid"} for s in p["PolicyDocument"]["Statement"]]
        elif kind == "AWS::ApiGatewayV2::Route":
            routes[p["RouteKey"]] = p
            continue
        elif kind == "AWS::ApiGatewayV2::Integration":
            integrations[name] = p
            continue
        elif kind == "AWS::Lambda::Permission":
            function = re.sub(r"[${}]|\.Arn", "", p["FunctionName"])
            part = parts.setdefault("Invokers of " + function, {"Type": kind, "Principals": []})
            part["Principals"] = sorted(set(part["Principals"]) | {p["Principal"]})
            continue
        elif kind == "AWS::ApiGatewayV2::Api":
            for path, methods in p.pop("Body", {}).get("paths", {}).items():
                for method, op in methods.items():
                    if method.startswith("x-") or not isinstance(op, dict):
                        continue
                    function = re.search(r"functions/\$\{(\w+)\}", json.dumps(op["x-amazon-apigateway-integration"]["uri"]))[1]
                    security = [k for s in op.get("security", []) for k in s]
                    parts[f"Route {method.upper()} {path}"] = {"Type": "route", "Function": function, "Auth": security}
            p = {}  # without name and description; routes are compared as parts of their own
        elif kind == "AWS::ApiGatewayV2::Stage":
            name = "ApiStage"
            p = {k: p[k] for k in ("AccessLogSettings", "AutoDeploy", "DefaultRouteSettings", "StageName")}
        parts[name] = {"Type": kind, **({"DeletionPolicy": r["DeletionPolicy"]} if "DeletionPolicy" in r else {}), **p}
    for key, route in routes.items():
        integration = re.search(r"\$\{(\w+)\}", route["Target"])[1]
        function = re.search(r"\$\{(\w+)\}", json.dumps(integrations[integration]["IntegrationUri"]))[1]
        parts[f"Route {key}"] = {"Type": "route", "Function": function, "Auth": [route["AuthorizationType"]]}
    return parts


def differences(a, b, where=""):
    if isinstance(a, dict) and isinstance(b, dict):
        for k in sorted(set(a) | set(b)):
            yield from differences(a.get(k), b.get(k), f"{where}: {k}" if where else k)
    elif a != b:
        yield where, a, b


cdk_template = json.load(open(sys.argv[2]))
ALLOWED.update(cdk_template.get("Allowed", {}))
sam_template = sam(sys.argv[1], dict(a.split("=", 1) for a in sys.argv[3:]))
ours, theirs = system(sam_template), system(cdk_template)
if "Outputs" in cdk_template:  # only the app has outputs
    ours["Outputs"], theirs["Outputs"] = sam_template["Outputs"], sorted(cdk_template["Outputs"])
failed, allowed = False, {}
for where, a, b in differences(ours, theirs):
    reason = next((why for pattern, why in ALLOWED.items() if re.search(pattern, where)), None)
    if reason:
        allowed.setdefault(reason, []).append(where)
        continue
    failed = True
    print(f"parity: {where}\n  SAM: {json.dumps(a)}\n  {sys.argv[2]}: {json.dumps(b)}")
if failed:
    sys.exit(1)
print(f"parity: {len(theirs)} parts equal but for {len(allowed)} kinds of allowed difference:")
for reason, places in allowed.items():
    print(f"  {reason} ({len(places)})")
