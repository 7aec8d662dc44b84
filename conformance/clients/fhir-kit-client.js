// Vermonster's client (npm fhir-kit-client): every interaction it has a method for, conditional headers, paging.
const assert = require('node:assert');
const fs = require('node:fs');

async function main() {
  const kit = await import('fhir-kit-client');
  const Client = kit.default?.default ?? kit.default ?? kit.Client;
  const client = new Client({ baseUrl: process.env.BASE, bearerToken: process.env.TOKEN });

  const statement = await client.capabilityStatement();
  assert.equal(statement.fhirVersion, '4.0.1');

  // create, read, vread, history
  const made = await client.create({
    resourceType: 'Patient',
    body: { resourceType: 'Patient', name: [{ family: 'Kit', given: ['Fox'] }], gender: 'male' },
  });
  const read = await client.read({ resourceType: 'Patient', id: made.id });
  assert.deepEqual(read, made);
  const { response } = Client.httpFor(read);
  const etag = response.headers.get('etag');
  assert.equal(etag, 'W/"1"');

  // update, with the version it was read in
  const changed = await client.update({
    resourceType: 'Patient', id: made.id, body: { ...read, gender: 'other' }, options: { headers: { 'If-Match': etag } },
  });
  assert.equal(changed.meta.versionId, '2');
  await assert.rejects(
    client.update({
      resourceType: 'Patient', id: made.id, body: { ...read, gender: 'female' }, options: { headers: { 'If-Match': etag } },
    }),
    (error) => error.response.status === 412 && error.response.data.resourceType === 'OperationOutcome',
  );
  assert.equal((await client.vread({ resourceType: 'Patient', id: made.id, version: '1' })).gender, 'male');
  const history = await client.history({ resourceType: 'Patient', id: made.id });
  assert.equal(history.entry.length, 2);

  // search both ways, pages both ways
  for (let number = 0; number < 4; number += 1) {
    await client.create({
      resourceType: 'Goal',
      body: {
        resourceType: 'Goal', lifecycleStatus: 'active', description: { text: 'a home' },
        subject: { reference: `Patient/${made.id}` },
      },
    });
  }
  const searchParams = { patient: made.id, _count: 3 };
  const page = await client.search({ resourceType: 'Goal', searchParams });
  const next = await client.nextPage({ bundle: page });
  assert.equal(page.entry.length + next.entry.length, 4);
  const posted = await client.search({ resourceType: 'Goal', searchParams: { patient: made.id }, options: { postSearch: true } });
  assert.equal(posted.entry.length, 4);
  await client.delete({ resourceType: 'Goal', id: posted.entry[0].resource.id });
  await assert.rejects(
    client.read({ resourceType: 'Goal', id: posted.entry[0].resource.id }),
    (error) => error.response.status === 410,
  );

  // batch, transaction, operation
  const batch = await client.batch({
    body: { resourceType: 'Bundle', type: 'batch', entry: [{ request: { method: 'GET', url: `Patient/${made.id}` } }] },
  });
  assert.equal(batch.entry[0].resource.id, made.id);
  const referral = JSON.parse(fs.readFileSync(process.env.REFERRAL, 'utf8'));
  const answer = await client.transaction({ body: referral });
  const task = answer.entry.map((entry) => entry.resource).find((one) => one.resourceType === 'Task');
  const loop = await client.operation({ name: 'loop-status', resourceType: 'Task', id: task.id, method: 'get' });
  assert.equal(loop.parameter.find((one) => one.name === 'closed').valueBoolean, false);
  const expanded = await client.operation({
    name: 'expand', resourceType: 'ValueSet', method: 'get',
    input: { url: 'https://loopgate.org/fhir/ValueSet/status-reason' },
  });
  assert.ok(expanded.expansion.contains.length > 10);
}

main().catch((error) => {
  console.error(error.response?.data ? JSON.stringify(error.response.data) : '', error);
  process.exit(1);
});
