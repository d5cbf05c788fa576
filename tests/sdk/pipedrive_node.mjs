// Drive a Pipedrive-shaped server with the official npm package `pipedrive`, unchanged.
// BASE_URL, TOKEN: where and with what. CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN: an app and its grant. CONTROL_URL: where the
// sandbox's settings are. SDK_DIR: the folder whose node_modules holds the package.
// One line is printed for each check; the first failure ends the run with exit code 1.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const { BASE_URL, CLIENT_ID, CLIENT_SECRET, CONTROL_URL, REFRESH_TOKEN, SDK_DIR, TOKEN } = process.env;
const load = createRequire(path.join(path.resolve(SDK_DIR), 'x.js'));
const v1 = load('pipedrive/v1');
const v2 = load('pipedrive/v2');
const settings = (generation) => ({ apiKey: TOKEN, basePath: `${BASE_URL}/api/${generation}` });
const second = new v2.Configuration(settings('v2'));
const first = new v1.Configuration(settings('v1'));
const persons = new v2.PersonsApi(second);
const deals = new v2.DealsApi(second);
const organizations = new v2.OrganizationsApi(second);
const check = async (name, work) => {
  await work();
  console.log(`ok   pipedrive npm: ${name}`);
  // A user's token has forty calls in two seconds, and the library does not wait by itself.
  await sleep(500);
};
const ids = ({ data }) => data.map((one) => one.id);
const run = Date.now().toString(16);
let company;
let person;
let deal;

await check('the user, all users, and the currencies', async () => {
  const users = new v1.UsersApi(first);
  const { data: me } = await users.getCurrentUser();
  assert.ok(me.company_id);
  const everybody = await users.getUsers();
  assert.ok(ids(everybody).includes(me.id));
  assert.ok(everybody.data.every((user) => user.name && user.email));
  const { data: currencies } = await new v1.CurrenciesApi(first).getCurrencies();
  assert.ok(currencies.some((currency) => currency.code === me.default_currency && currency.active_flag));
});
await check('pipelines and stages', async () => {
  const pipelines = ids(await new v2.PipelinesApi(second).getPipelines());
  const { data: stages } = await new v2.StagesApi(second).getStages();
  assert.ok(pipelines.length > 0 && stages.length > 0);
  assert.ok(stages.every((stage) => pipelines.includes(stage.pipeline_id)));
});
await check('an organization is made, listed and read', async () => {
  const name = `Glow ${run}`;
  ({ data: company } = await organizations.addOrganization({ AddOrganizationRequest: { name } }));
  assert.deepEqual(ids(await organizations.getOrganizations({ ids: String(company.id) })), [company.id]);
  assert.equal((await organizations.getOrganization({ id: company.id })).data.name, name);
});
await check('a person is made, found by address, listed, read and changed', async () => {
  const email = `ana.${run}@example.com`;
  const AddPersonRequest = { name: 'Ana Ito', emails: [{ value: email, primary: true }], org_id: company.id };
  ({ data: person } = await persons.addPerson({ AddPersonRequest }));
  const found = await persons.searchPersons({ term: email, fields: 'email', exact_match: true });
  assert.equal(found.data.items[0].item.id, person.id);
  const listed = await persons.getPersons({ ids: String(person.id) });
  assert.deepEqual(ids(listed), [person.id]);
  assert.equal(listed.data[0].org_id, company.id);
  const changed = await persons.updatePerson({ id: person.id, UpdatePersonRequest: { name: 'Ana Kaya' } });
  assert.equal(changed.data.name, 'Ana Kaya');
  const read = await persons.getPerson({ id: person.id });
  assert.deepEqual([read.data.name, read.data.emails[0].value], ['Ana Kaya', email]);
});
await check('lists are walked page by page', async () => {
  await persons.addPerson({ AddPersonRequest: { name: `Ben ${run}` } });
  const seen = [];
  let cursor;
  do {
    const page = await persons.getPersons({ limit: 1, sort_by: 'id', sort_direction: 'asc', cursor });
    seen.push(...ids(page));
    cursor = page.additional_data.next_cursor;
  } while (cursor);
  assert.ok(seen.includes(person.id) && seen.length > 1);
  assert.deepEqual(seen, [...new Set(seen)].sort((a, b) => a - b));
});
await check('fields are listed; one is made for deals and one for persons, and what it holds is searched for', async () => {
  const made = { field_name: `Mark ${run}`, field_type: 'varchar' };
  const onDeals = new v2.DealFieldsApi(second);
  const onPersons = new v2.PersonFieldsApi(second);
  const { data: ofDeals } = await onDeals.addDealField({ AddDealFieldRequest: made });
  const { data: ofPersons } = await onPersons.addPersonField({ AddPersonFieldRequest: made });
  for (const [listed, { field_code: code }] of [
    [await onDeals.getDealFields({ limit: 500 }), ofDeals],
    [await onPersons.getPersonFields({ limit: 500 }), ofPersons],
  ]) {
    const field = listed.data.find((one) => one.field_code === code);
    assert.deepEqual([field.field_name, field.field_type, field.is_custom_field], [made.field_name, 'varchar', true]);
  }
  const mark = (code, text) => ({ custom_fields: { [code]: text } });
  ({ data: deal } = await deals.addDeal({
    AddDealRequest: {
      title: `Course ${run}`, value: 900.5, person_id: person.id, ...mark(ofDeals.field_code, `deal-${run}`),
    },
  }));
  await persons.updatePerson({ id: person.id, UpdatePersonRequest: mark(ofPersons.field_code, `person-${run}`) });
  const ask = (term) => ({ term, fields: 'custom_fields', exact_match: true });
  const hits = ({ data }) => data.items.map(({ item }) => item.id);
  assert.deepEqual(hits(await deals.searchDeals(ask(`deal-${run}`))), [deal.id]);
  assert.deepEqual(hits(await persons.searchPersons(ask(`person-${run}`))), [person.id]);
});
await check('a deal is listed, read and won, and its changelog says so', async () => {
  assert.equal((await deals.getDeals({ ids: String(deal.id) })).data[0].value, 900.5);
  assert.equal((await deals.getDeal({ id: deal.id })).data.person_id, person.id);
  const won = await deals.updateDeal({ id: deal.id, UpdateDealRequest: { status: 'won' } });
  assert.equal(won.data.status, 'won');
  const { data: log } = await new v1.DealsApi(first).getDealChangelog({ id: deal.id });
  const said = log.find((entry) => entry.field_key === 'status');
  assert.deepEqual([said.old_value, said.new_value], ['open', 'won']);
  assert.ok(said.time && said.change_source);
});
await check('an archived deal is in the list of the archived and not in the other', async () => {
  const archive = async (is_archived) => deals.updateDeal({ id: deal.id, UpdateDealRequest: { is_archived } });
  const lists = async () => Promise.all([deals.getDeals({ limit: 500 }), deals.getArchivedDeals({ limit: 500 })]);
  const where = async () => (await lists()).map((list) => ids(list).includes(deal.id));
  assert.deepEqual(await where(), [true, false]);
  await archive(true);
  assert.deepEqual(await where(), [false, true]);
  await archive(false);
  assert.deepEqual(await where(), [true, false]);
});
await check('a deal and a person are deleted', async () => {
  assert.equal((await deals.deleteDeal({ id: deal.id })).data.id, deal.id);
  const listed = await deals.getDeals({ ids: String(deal.id), status: 'open,won,lost,deleted' });
  assert.ok(listed.data.every((one) => one.is_deleted || one.status === 'deleted'));
  assert.ok(!ids(await deals.getDeals({ limit: 500 })).includes(deal.id));
  assert.equal((await persons.deletePerson({ id: person.id })).data.id, person.id);
  assert.deepEqual(ids(await persons.getPersons({ ids: String(person.id) })), []);
});
await check('webhooks', async () => {
  const hooks = new v1.WebhooksApi(first);
  const AddWebhookRequest = {
    subscription_url: 'https://example.com/hook', event_action: '*', event_object: 'deal', name: 'sdk', version: '2.0',
  };
  const made = await hooks.addWebhook({ AddWebhookRequest });
  assert.ok(ids(await hooks.getWebhooks()).includes(made.data.id));
  await hooks.deleteWebhook({ id: made.data.id });
  assert.ok(!ids(await hooks.getWebhooks()).includes(made.data.id));
});
await check('a grant is refreshed, a consent is exchanged for another, and calls are made with what they bring', async () => {
  const redirectUri = 'https://example.com/callback';
  const set = { method: 'POST', headers: { 'content-type': 'application/json' } };
  const registered = await fetch(`${CONTROL_URL}/__settings`, { ...set, body: JSON.stringify({ redirect_uri: redirectUri }) });
  assert.equal(registered.status, 200);
  const grant = () => new v1.OAuth2Configuration({ clientId: CLIENT_ID, clientSecret: CLIENT_SECRET, redirectUri, host: BASE_URL });
  const works = async (accessToken) => {
    const app = new v1.Configuration({ accessToken, basePath: `${BASE_URL}/api/v1` });
    assert.ok((await new v1.UsersApi(app).getCurrentUser()).data.company_id);
  };
  const old = grant();
  old.refreshToken = REFRESH_TOKEN;
  const renewed = await old.tokenRefresh();
  assert.ok(renewed.access_token && renewed.refresh_token && renewed.expires_in > 0);
  await works(old.getAccessToken);
  // The library only names the page on which a person lets the app in: opening it is the browser's part.
  const fresh = grant();
  const page = await fetch(fresh.authorizationUrl, { redirect: 'manual' });
  const back = new URL(page.headers.get('location'));
  assert.equal(`${back.origin}${back.pathname}`, redirectUri);
  const code = back.searchParams.get('code');
  const given = await fresh.authorize(code);
  assert.ok(given.access_token && given.access_token !== renewed.access_token);
  await works(fresh.getAccessToken);
  await assert.rejects(grant().authorize(code), (error) => error.error === 'invalid_grant');
});
await check('a wrong token', async () => {
  const stranger = new v2.Configuration({ ...settings('v2'), apiKey: 'nobody' });
  await assert.rejects(new v2.DealsApi(stranger).getDeals(), (error) => error.errorCode === 401);
});
