// Drive a Pipedrive-shaped server with the official npm package `pipedrive`, unchanged.
// BASE_URL, TOKEN: where and with what. SDK_DIR: the folder whose node_modules holds the package.
// One line is printed for each check; the first failure ends the run with exit code 1.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';

const load = createRequire(path.join(path.resolve(process.env.SDK_DIR), 'x.js'));
const v1 = load('pipedrive/v1');
const v2 = load('pipedrive/v2');
const settings = (generation) => ({ apiKey: process.env.TOKEN, basePath: `${process.env.BASE_URL}/api/${generation}` });
const second = new v2.Configuration(settings('v2'));
const first = new v1.Configuration(settings('v1'));
const check = async (name, work) => {
  await work();
  console.log(`ok   pipedrive npm: ${name}`);
};
const run = Date.now().toString(16);
let person;
let deal;

await check('the user', async () => {
  const { data } = await new v1.UsersApi(first).getCurrentUser();
  assert.ok(data.company_id);
});
await check('pipelines and stages', async () => {
  assert.ok((await new v2.PipelinesApi(second).getPipelines()).data.length > 0);
  assert.ok((await new v2.StagesApi(second).getStages()).data.length > 0);
});
await check('a person is made, found by address, and changed', async () => {
  const persons = new v2.PersonsApi(second);
  const email = `ana.${run}@example.com`;
  ({ data: person } = await persons.addPerson({ AddPersonRequest: { name: 'Ana Ito', emails: [{ value: email, primary: true }] } }));
  const found = await persons.searchPersons({ term: email, fields: 'email', exact_match: true });
  assert.equal(found.data.items[0].item.id, person.id);
  const changed = await persons.updatePerson({ id: person.id, UpdatePersonRequest: { name: 'Ana Kaya' } });
  assert.equal(changed.data.name, 'Ana Kaya');
});
await check('a deal is made, listed, won and deleted', async () => {
  const deals = new v2.DealsApi(second);
  ({ data: deal } = await deals.addDeal({ AddDealRequest: { title: `Course ${run}`, value: 900.5, person_id: person.id } }));
  const page = await deals.getDeals({ ids: String(deal.id) });
  assert.equal(page.data[0].value, 900.5);
  const won = await deals.updateDeal({ id: deal.id, UpdateDealRequest: { status: 'won' } });
  assert.equal(won.data.status, 'won');
  assert.equal((await deals.deleteDeal({ id: deal.id })).data.id, deal.id);
});
await check('fields', async () => {
  assert.ok((await new v2.DealFieldsApi(second).getDealFields()).data.length > 0);
});
await check('webhooks', async () => {
  const hooks = new v1.WebhooksApi(first);
  const AddWebhookRequest = {
    subscription_url: 'https://example.com/hook', event_action: '*', event_object: 'deal', name: 'sdk', version: '2.0',
  };
  const made = await hooks.addWebhook({ AddWebhookRequest });
  assert.ok((await hooks.getWebhooks()).data.some((hook) => hook.id === made.data.id));
  await hooks.deleteWebhook({ id: made.data.id });
});
await check('a wrong token', async () => {
  const stranger = new v2.Configuration({ ...settings('v2'), apiKey: 'nobody' });
  await assert.rejects(new v2.DealsApi(stranger).getDeals(), (error) => error.errorCode === 401);
});
