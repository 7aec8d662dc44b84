// Compares our FHIRPath evaluator with fhirpath.js: every invariant of R4 and of a folder's profiles, on every example in
// that folder, wherever an element of the invariant's type stands. Run by hand, from the repository's root:
//
//   cargo build --example fhirpath
//   npm install --no-save --prefix /tmp/fhirpath fhirpath
//   node conformance/fhirpath/compare.mjs /tmp/fhirpath FOLDER…
//
// FOLDER holds FHIR JSON, StructureDefinitions and examples alike. It prints how often both agree, and every difference
// once per expression; exit status 1 if there is one. What we say we don't know (a value set, a resource elsewhere) and
// what fhirpath.js refuses is counted apart.

import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';

const [packages, ...folders] = process.argv.slice(2);
const require = createRequire(path.resolve(packages, 'node_modules', 'x.js'));
const fhirpath = require('fhirpath');
const model = require('fhirpath/fhir-context/r4');

const files = folders.flatMap(folder => fs.readdirSync(folder, { recursive: true }).filter(name => name.endsWith('.json')).map(name => path.join(folder, name)));
const resources = files.map(file => JSON.parse(fs.readFileSync(file, 'utf8'))).filter(one => one.resourceType);

// Invariants: [type, path below it, expression]. R4's own come from our tables.
const rules = new Map();
const add = (where, expression) => rules.set(`${where} ${expression}`, [where, expression]);
let type = '', element = '';
for (const line of fs.readFileSync('profiles/r4/definitions.txt', 'utf8').split('\n')) {
  const fields = line.split('\t');
  if (fields[0] === 'T') { type = fields[1]; element = ''; }
  if (fields[0] === 'E') element = '.' + fields[1].replace('[x]', '');
  if (fields[0] === 'C') add(type + element, fields[4]);
}
for (const profile of resources.filter(one => one.resourceType === 'StructureDefinition' && one.snapshot))
  for (const at of profile.snapshot.element)
    for (const rule of at.constraint ?? [])
      if (rule.expression && !rule.source?.startsWith('http://hl7.org/fhir/StructureDefinition/')) add(at.path.replace('[x]', ''), rule.expression);

// fhirpath.js does not know the type of an extension, so it finds no Extension to look at.
const UNKNOWN_THERE = ['Extension'];
const resourceTypes = new Set(resources.map(one => one.resourceType));
function expressionsFor(resource) {
  const found = [];
  for (const [where, expression] of rules.values()) {
    const [head, ...rest] = where.split('.');
    if (head === resource.resourceType) found.push(rest.length ? `${where}.select(${expression})` : expression);
    else if (/^[A-Z]/.test(head) && !resourceTypes.has(head) && !rest.length && !['Resource', 'DomainResource', ...UNKNOWN_THERE].includes(head))
      found.push(`descendants().ofType(${head}).select(${expression})`);
    else if (head === 'DomainResource' && !rest.length && resource.resourceType !== 'Bundle') found.push(expression);
  }
  return found;
}

const ours = spawn('target/debug/examples/fhirpath', { stdio: ['pipe', 'pipe', 'inherit'] });
const answers = readline.createInterface({ input: ours.stdout })[Symbol.asyncIterator]();
const compiled = new Map();
const compile = text => {
  if (!compiled.has(text)) compiled.set(text, fhirpath.compile(text, model, { traceFn: () => {} }));
  return compiled.get(text);
};

const plain = value => JSON.stringify(value, (_, one) => (one && typeof one === 'object' && !Array.isArray(one) ? Object.fromEntries(Object.entries(one).sort()) : one));
const count = { agree: 0, unknown: 0, refusedThere: 0, differ: 0 };
const shown = new Set();
for (const resource of resources.filter(one => !['StructureDefinition', 'ImplementationGuide', 'CapabilityStatement', 'SearchParameter'].includes(one.resourceType))) {
  const expressions = expressionsFor(resource);
  ours.stdin.write(JSON.stringify({ resource, expressions }) + '\n');
  const answer = JSON.parse((await answers.next()).value);
  for (const [index, expression] of expressions.entries()) {
    const our = answer[index];
    if (our.fault?.startsWith('not ')) { count.unknown += 1; if (!shown.has(our.fault)) { shown.add(our.fault); console.log('not checked:', our.fault); } continue; }
    let their;
    try { their = { found: compile(expression)(resource, { resource, context: resource, rootResource: resource }).map(one => one?.toString && one?.asStr ? one.asStr : one) }; }
    catch (error) { their = { refused: String(error).slice(0, 120) }; }
    if (their.refused && our.fault) { count.agree += 1; continue; }
    if (their.refused) { count.refusedThere += 1; if (!shown.has(expression)) { shown.add(expression); console.log('refused there:', expression, their.refused); } continue; }
    if (plain(our) === plain(their)) { count.agree += 1; continue; }
    count.differ += 1;
    if (!shown.has(expression)) {
      shown.add(expression);
      console.log(`${resource.resourceType}/${resource.id}: ${expression}\n  ours   ${plain(our)}\n  theirs ${plain(their)}`);
    }
  }
}
ours.stdin.end();
console.log(count);
process.exit(count.differ ? 1 : 0);
