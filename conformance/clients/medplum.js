// Medplum's client (npm @medplum/core): its whole set of REST calls, conditional ones and paging included.
const assert = require('node:assert');
const { MedplumClient } = require('@medplum/core');

async function main() {
  const base = new URL(process.env.BASE);
  const client = new MedplumClient({
    baseUrl: `${base.origin}/`, fhirUrlPath: base.pathname.slice(1), fetch: (url, options) => fetch(url, options), cacheTime: 0,
  });
  client.setAccessToken(process.env.TOKEN);

  const identifier = [{ system: 'urn:medplum', value: String(Date.now()) }];
  const criteria = `identifier=urn:medplum|${identifier[0].value}`;
  const made = await client.createResource({ resourceType: 'Patient', identifier, name: [{ family: 'Plum' }] });
  assert.deepEqual(await client.readResource('Patient', made.id), made);
  const changed = await client.updateResource({ ...made, gender: 'male' });
  assert.equal(changed.meta.versionId, '2');
  const patched = await client.patchResource('Patient', made.id, [{ op: 'replace', path: '/gender', value: 'female' }]);
  assert.equal(patched.gender, 'female');
  assert.equal((await client.readHistory('Patient', made.id)).entry.length, 3);

  // conditional: nothing is made twice
  const again = await client.createResourceIfNoneExist({ resourceType: 'Patient', identifier }, criteria);
  assert.equal(again.id, made.id);
  const upserted = await client.upsertResource({ ...patched, active: true }, criteria);
  assert.equal(upserted.id, made.id);
  assert.equal((await client.searchOne('Patient', criteria)).active, true);

  // batch, $validate
  const batch = await client.executeBatch({
    resourceType: 'Bundle', type: 'batch', entry: [{ request: { method: 'GET', url: `Patient/${made.id}` } }],
  });
  assert.equal(batch.entry[0].resource.id, made.id);
  const outcome = await client.validateResource({ resourceType: 'Patient', gender: 'male' });
  assert.equal(outcome.resourceType, 'OperationOutcome');

  // pages
  for (let number = 0; number < 5; number += 1) {
    await client.createResource({
      resourceType: 'Goal', lifecycleStatus: 'active', description: { text: 'a home' }, subject: { reference: `Patient/${made.id}` },
    });
  }
  const seen = new Set();
  for await (const page of client.searchResourcePages('Goal', `patient=${made.id}&_count=2`)) {
    page.forEach((goal) => seen.add(goal.id));
  }
  assert.equal(seen.size, 5);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
