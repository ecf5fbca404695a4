// nag.js TEMPLATE: fails on findings of cdk-nag's AWS Solutions rules that are not excused below, and on excuses without a finding.
const { App, Stack, Aspects, DefaultStackSynthesizer } = require('aws-cdk-lib');
const { CfnInclude } = require('aws-cdk-lib/cloudformation-include');
const { Annotations, Match } = require('aws-cdk-lib/assertions');
const { AwsSolutionsChecks } = require('cdk-nag');

const excused = {
  'AwsSolutions-SQS4': "only this stack's roles may use the queues, and the SDK speaks HTTPS",
  'AwsSolutions-IAM5': "a table's streams, TABLE/stream/*: their names contain the time of their creation",
};

const app = new App({ analyticsReporting: false });
const stack = new Stack(app, 'Nag', { synthesizer: new DefaultStackSynthesizer({ generateBootstrapVersionRule: false }) });
new CfnInclude(stack, 'Template', { templateFile: process.argv[2] });
Aspects.of(stack).add(new AwsSolutionsChecks({ verbose: true }));
const annotations = Annotations.fromStack(stack);
const found = [...annotations.findError('*', Match.anyValue()), ...annotations.findWarning('*', Match.anyValue())];
const rule = (m) => /AwsSolutions-[A-Z]+[0-9]+|CdkNagValidationFailure/.exec(m.entry.data)?.[0] ?? m.entry.data;
const open = found.filter((m) => !excused[rule(m)]);
for (const m of open) console.error(`nag: ${m.id}: ${m.entry.data}`);
for (const r of Object.keys(excused)) {
  if (!found.some((m) => rule(m) === r)) {
    open.push(r);
    console.error(`nag: ${r} is not found any more: delete its excuse`);
  }
}
if (open.length) process.exit(1);
console.log(`nag: ${found.length} findings, all excused by ${Object.keys(excused).length} reasons`);
