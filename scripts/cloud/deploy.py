#!/usr/bin/env python3
"""deploy.py CDK_OUT STACK: deploys a synthesised CDK stack unchanged to the engine at AWS_ENDPOINT_URL, and prints its outputs as
JSON. It does what "cdk bootstrap" and the CDK CLI do in AWS: the parameter of the bootstrap version, the asset bucket, the upload. It
turns on native TTL by a call, because ministack 1.5.33 ignores a template's TimeToLiveSpecification."""
import io, json, os, pathlib, sys, time, zipfile
import boto3
from botocore.config import Config

out, stack = pathlib.Path(sys.argv[1]), sys.argv[2]
account, region = "000000000000", os.environ.get("AWS_REGION", "us-east-1")
client = lambda service: boto3.client(service, region_name=region, config=Config(retries={"max_attempts": 1}))
s3, cfn, ddb, ssm = map(client, ("s3", "cloudformation", "dynamodb", "ssm"))


def zipped(folder):
    buf = io.BytesIO()
    with zipfile.ZipFile(buf, "w", zipfile.ZIP_DEFLATED) as z:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(str(path.relative_to(folder)), (1980, 1, 1, 0, 0, 0))
            info.external_attr = (path.stat().st_mode & 0xFFFF) << 16
            z.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buf.getvalue()


def literal(name):
    return name.replace("${AWS::AccountId}", account).replace("${AWS::Region}", region).replace("${AWS::Partition}", "aws")


ssm.put_parameter(Name="/cdk-bootstrap/hnb659fds/version", Value="30", Type="String", Overwrite=True)
for asset in json.loads((out / f"{stack}.assets.json").read_text())["files"].values():
    path = out / asset["source"]["path"]
    body = zipped(path) if asset["source"]["packaging"] == "zip" else path.read_bytes()
    for dest in asset["destinations"].values():
        bucket = literal(dest["bucketName"])
        try:
            s3.create_bucket(Bucket=bucket)
        except s3.exceptions.ClientError:
            pass
        s3.put_object(Bucket=bucket, Key=literal(dest["objectKey"]), Body=body)
        if path.name == f"{stack}.template.json":
            template = f"{os.environ['AWS_ENDPOINT_URL']}/{bucket}/{literal(dest['objectKey'])}"

text = (out / f"{stack}.template.json").read_text()
cfn.create_stack(StackName=stack, TemplateURL=template, Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"])
while (s := cfn.describe_stacks(StackName=stack)["Stacks"][0])["StackStatus"].endswith("IN_PROGRESS"):
    time.sleep(0.1)
if s["StackStatus"] != "CREATE_COMPLETE":
    for e in cfn.describe_stack_events(StackName=stack)["StackEvents"]:
        if "FAILED" in e["ResourceStatus"]:
            print(e["LogicalResourceId"], e["ResourceStatus"], e.get("ResourceStatusReason", ""), file=sys.stderr)
    sys.exit(f"deploy: {stack}: {s['StackStatus']}")
for logical, res in json.loads(text)["Resources"].items():
    ttl = res["Type"] == "AWS::DynamoDB::Table" and res["Properties"].get("TimeToLiveSpecification")
    if ttl:
        name = cfn.describe_stack_resource(StackName=stack, LogicalResourceId=logical)["StackResourceDetail"]["PhysicalResourceId"]
        ddb.update_time_to_live(TableName=name, TimeToLiveSpecification=ttl)
print(json.dumps({o["OutputKey"]: o["OutputValue"] for o in s.get("Outputs", [])}))
