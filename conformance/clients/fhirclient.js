// The SMART Health IT client for JavaScript (npm fhirclient), in its server form, as an app would hold it after a launch.
const assert = require('node:assert');
const fs = require('node:fs');
const smart = require('fhirclient');

async function main() {
  const request = { url: '/', headers: { host: 'localhost' }, socket: {} };
  const storage = { get: async () => undefined, set: async () => undefined, unset: async () => true };
  const client = smart(request, {}, () => storage).client({
    serverUrl: process.env.BASE, tokenResponse: { access_token: process.env.TOKEN },
  });

  assert.equal((await client.request('metadata')).fhirVersion, '4.0.1');
  assert.equal(await client.getFhirRelease(), 4);

  // create, read, update with If-Match, patchless
  const made = await client.create({ resourceType: 'Patient', name: [{ family: 'Js', given: ['Ada'] }], gender: 'female' });
  assert.equal((await client.request(`Patient/${made.id}`)).id, made.id);
  const changed = await client.update({ ...made, birthDate: '1990-01-01' }, { headers: { 'If-Match': 'W/"1"' } });
  assert.equal(changed.meta.versionId, '2');
  await assert.rejects(client.update({ ...made, birthDate: '1991-01-01' }, { headers: { 'If-Match': 'W/"1"' } }), /412/);

  // search, all pages as one list, references resolved
  for (let number = 0; number < 5; number += 1) {
    await client.create({
      resourceType: 'Goal', lifecycleStatus: 'active', description: { text: 'a home' },
      subject: { reference: `Patient/${made.id}` },
    });
  }
  const goals = await client.request(`Goal?patient=${made.id}&_count=2`, {
    pageLimit: 0, flat: true, resolveReferences: ['subject'],
  });
  assert.equal(goals.length, 5);
  assert.equal(goals[0].subject.name[0].family, 'Js');
  await client.delete(`Goal/${goals[0].id}`);
  await assert.rejects(client.request(`Goal/${goals[0].id}`), /410|Gone|deleted/);

  // transaction
  const answer = await client.request({
    url: '', method: 'POST', body: fs.readFileSync(process.env.REFERRAL, 'utf8'),
    headers: { 'content-type': 'application/fhir+json' },
  });
  assert.equal(answer.entry.length, 4);
  assert.ok(answer.entry.every((entry) => entry.response.status.startsWith('20')));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
