#!/usr/bin/env python3
"""events.py BUS [PREFIX]: prints the events on the local cloud's bus, one object per line, until it is interrupted; with a prefix, only
the events of the locks below it. It creates a queue and a rule that sends events to it, and deletes both at the end."""
import json, os, sys, uuid
import boto3

bus, prefix = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
service = lambda name: boto3.client(
    name, region_name=os.environ.get("AWS_REGION", "us-east-1"), aws_access_key_id="test", aws_secret_access_key="test"
)
sqs, rules = service("sqs"), service("events")
name = f"holdfast-events-{uuid.uuid4()}"
queue = sqs.create_queue(QueueName=name)["QueueUrl"]
arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
pattern = {"source": ["holdfast"]} | ({"detail": {"prefixes": [prefix.rstrip(":")]}} if prefix else {})
rule = rules.put_rule(Name=name, EventBusName=bus, EventPattern=json.dumps(pattern))["RuleArn"]
sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": json.dumps({
    "Version": "2012-10-17",
    "Statement": [{
        "Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
    }],
})})
rules.put_targets(Rule=name, EventBusName=bus, Targets=[{"Id": "queue", "Arn": arn}])
print(f"listening to {bus}", file=sys.stderr)
try:
    while True:
        for message in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=10, MaxNumberOfMessages=10).get("Messages", []):
            print(message["Body"], flush=True)
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
except KeyboardInterrupt:
    pass
finally:
    rules.remove_targets(Rule=name, EventBusName=bus, Ids=["queue"])
    rules.delete_rule(Name=name, EventBusName=bus)
    sqs.delete_queue(QueueUrl=queue)
