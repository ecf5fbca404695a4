// asl.js FILE...: validates state machines with AWS's language service and with asl-validator's schemas. A FILE is a definition
// (*.asl.json) or a CloudFormation template, whose state machines are all validated.
const fs = require('fs');
const { getLanguageService, TextDocument } = require('amazon-states-language-service');
const validate = require('asl-validator');

// The values of ${…} in definitions. Other names are replaced by a function's ARN.
const values = { Partition: 'aws', 'AWS::Partition': 'aws', 'AWS::Region': 'eu-west-1', 'AWS::AccountId': '111122223333' };
const arn = 'arn:aws:lambda:eu-west-1:111122223333:function:f';
const fill = (text) => text.replace(/\$\{([^}]+)\}/g, (_, name) => values[name] ?? arn);

// text evaluates the intrinsic functions that definitions in templates use.
function text(value) {
  if (typeof value === 'string') return value;
  if (value['Fn::Join']) return value['Fn::Join'][1].map(text).join(value['Fn::Join'][0]);
  if (value['Fn::Sub']) return fill([].concat(value['Fn::Sub'])[0]);
  if (value.Ref) return values[value.Ref] ?? arn;
  if (value['Fn::GetAtt']) return arn;
  throw new Error(`cannot evaluate ${JSON.stringify(value)}`);
}

function definitions(file) {
  const source = fs.readFileSync(file, 'utf8');
  if (file.endsWith('.asl.json')) return [[file, fill(source)]];
  return Object.entries(JSON.parse(source).Resources)
    .filter(([, r]) => r.Type === 'AWS::StepFunctions::StateMachine')
    .map(([id, r]) => [`${file}: ${id}`, r.Properties.DefinitionString ? text(r.Properties.DefinitionString) : JSON.stringify(r.Properties.Definition)]);
}

async function main(files) {
  const all = files.flatMap(definitions);
  const service = getLanguageService({});
  let problems = 0;
  for (const [name, definition] of all) {
    const document = TextDocument.create(name, 'asl', 1, definition);
    const found = (await service.doValidation(document, service.parseJSONDocument(document))).map((d) => `language service: ${d.message}`);
    const schema = validate(JSON.parse(definition));
    found.push(...schema.errors.map((e) => `asl-validator: ${e.instancePath ?? e.path ?? ''} ${e.message ?? e.Message ?? JSON.stringify(e)}`));
    for (const f of found) console.error(`asl: ${name}: ${f}`);
    problems += found.length;
  }
  if (all.length === 0) throw new Error('no state machine in ' + files.join(', '));
  if (problems) process.exit(1);
  console.log(`asl: ${all.length} state machines are valid`);
}
main(process.argv.slice(2)).catch((e) => { console.error(`asl: ${e.message}`); process.exit(1); });
