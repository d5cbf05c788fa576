// Drive a HubSpot-shaped server with the @hubspot/api-client package.
//
// Environment
//   BASE_URL       e.g. http://127.0.0.1:9101 (needed)
//   TOKEN          static access token (needed)
//   CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN   all three set: the OAuth refresh is tried as well
//   SEARCH_WAIT    seconds to wait for the search index, default 60
//   SDK_RETRIES    tries for a call answered 429 or 5xx, 1 to 6, default 3; 0: one try, no waiting
//   SDK_DIR        folder whose node_modules holds the package; default: js/ beside this file
// One line is printed for each check. The first failure ends the run with exit code 1.
//
// The package checks nothing it receives, so `need` below asks for the fields
// that its type declarations promise.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const beside = path.join(here, 'js');
const home = process.env.SDK_DIR || (existsSync(path.join(beside, 'node_modules')) ? beside : here);
const { Client } = createRequire(path.join(path.resolve(home), 'index.js'))('@hubspot/api-client');

const BASE = (process.env.BASE_URL || '').replace(/\/+$/, '');
const TOKEN = process.env.TOKEN || '';
const SEARCH_WAIT = Number(process.env.SEARCH_WAIT || 60);
if (!BASE || !TOKEN) {
  console.error('set BASE_URL and TOKEN');
  process.exit(1);
}

const RUN = Date.now().toString(16);
// As Tandem's own property is called.
const KEY = 'tandem_id';
const numberOfApiCallRetries = Number(process.env.SDK_RETRIES ?? 3);
const connect = (accessToken = TOKEN) => new Client({ accessToken, basePath: BASE, numberOfApiCallRetries });
const hub = connect();
const { crm } = hub;

class Skip extends Error {}
let passed = 0;
let skipped = 0;

async function check(label, body) {
  try {
    await body();
  } catch (err) {
    if (err instanceof Skip) {
      skipped += 1;
      console.log(`skip  ${label}: ${err.message}`);
      return;
    }
    console.log(`FAIL  ${label}: ${err.message}`);
    console.error(err.stack);
    console.log(`${passed} passed, 1 failed, ${skipped} skipped`);
    process.exit(1);
  }
  passed += 1;
  console.log(`ok    ${label}`);
}

const same = (got, want, what = 'value') => assert.deepEqual(got, want, `${what}: got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
const has = (part, list, what = 'value') => assert.ok(list.includes(part), `${what}: ${JSON.stringify(part)} is not in ${JSON.stringify(list)}`);
const sorted = (list) => [...list].sort();

function need(thing, ...fields) {
  for (const f of fields) assert.ok(thing?.[f] !== undefined && thing[f] !== null, `field ${f} is missing in ${JSON.stringify(thing)}`);
  return thing;
}

function time(value) {
  assert.ok(value instanceof Date && !Number.isNaN(value.getTime()), `not a time: ${value}`);
}

function sane(record) {
  need(record, 'id', 'properties', 'createdAt', 'updatedAt');
  same(typeof record.id, 'string', 'type of id');
  time(record.createdAt);
  time(record.updatedAt);
  return record;
}

function done(batch) {
  need(batch, 'status', 'results', 'startedAt', 'completedAt');
  same(batch.status, 'COMPLETE', 'batch status');
  time(batch.startedAt);
  time(batch.completedAt);
  return batch.results;
}

/** The call must be turned down with one of the codes; the error comes back. */
async function refused(call, ...codes) {
  try {
    await call();
  } catch (err) {
    assert.ok(codes.includes(err.code), `refused with ${err.code}, want ${codes}: ${err.message}`);
    return err;
  }
  assert.fail(`the call went through, want one of ${codes}`);
}

/** Repeat probe() until it gives something truthy; its last answer comes back. */
async function poll(probe, seconds = 10, pause = 300) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const got = await probe();
    if (got || Date.now() > end) return got;
    await sleep(pause);
  }
}

/** Repeat a write while the server still says that a fresh property does not exist. */
async function settle(call, seconds = 10) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    try {
      return await call();
    } catch (err) {
      const fresh = err.code === 400 && JSON.stringify(err.body ?? '').includes('PROPERTY_DOESNT_EXIST');
      if (!fresh || Date.now() > end) throw err;
      await sleep(250);
    }
  }
}

const key = (name) => `js-${RUN}-${name}`;
const mail = (name) => `js-${RUN}-${name}@sdk.example`;

// --- access -------------------------------------------------------------------

await check('auth: an unknown token is a 401', async () => {
  const err = await refused(() => connect('not-a-token').crm.deals.basicApi.getPage(1), 401);
  need(err.body, 'message', 'category', 'correlationId');
});

await check('raw request: account details', async () => {
  const reply = await hub.apiRequest({ path: '/account-info/v3/details' });
  if (reply.status === 404) throw new Skip('not served under /account-info/v3');
  same(reply.status, 200, 'status');
  need(await reply.json(), 'portalId');
});

// --- pipelines, owners, properties ----------------------------------------------

let pipe;
let stageA;
let stageB;

await check('pipelines: getAll and getById', async () => {
  const { results } = await crm.pipelines.pipelinesApi.getAll('deals');
  assert.ok(results.length, 'no pipeline');
  [pipe] = results.sort((a, b) => a.displayOrder - b.displayOrder);
  need(pipe, 'id', 'label', 'displayOrder', 'archived', 'createdAt', 'updatedAt', 'stages');
  const stages = [...pipe.stages].sort((a, b) => a.displayOrder - b.displayOrder);
  for (const s of stages) {
    need(s, 'id', 'label', 'displayOrder', 'archived', 'createdAt', 'updatedAt', 'metadata');
    has(s.metadata.isClosed, ['true', 'false'], `isClosed of ${s.id}`);
  }
  const open = stages.filter((s) => s.metadata.isClosed === 'false').map((s) => s.id);
  assert.ok(open.length >= 2, 'this script needs two open stages');
  [stageA, stageB] = open;
  same((await crm.pipelines.pipelinesApi.getById('deals', pipe.id)).id, pipe.id, 'id');
  const rows = (await crm.pipelines.pipelineStagesApi.getAll('deals', pipe.id)).results;
  same(sorted(rows.map((s) => s.id)), sorted(stages.map((s) => s.id)), 'stages');
});

await check('owners: getPage, by e-mail, by id', async () => {
  // Without arguments the package asks for /crm/v3/owners, with some for /crm/v3/owners/?...
  const bare = await crm.owners.ownersApi.getPage();
  const page = await crm.owners.ownersApi.getPage(undefined, undefined, 5);
  if (!page.results.length) throw new Skip('the account has no owner');
  const [owner] = page.results;
  has(owner.id, bare.results.map((o) => o.id), 'owner ids');
  need(owner, 'id', 'type', 'archived', 'createdAt', 'updatedAt');
  same((await crm.owners.ownersApi.getById(Number(owner.id))).id, owner.id, 'owner id');
  if (owner.email) {
    const again = await crm.owners.ownersApi.getPage(owner.email);
    has(owner.id, again.results.map((o) => o.id), 'owner ids');
  }
});

const propertyNames = async (kind) => (await crm.properties.coreApi.getAll(kind)).results.map((p) => p.name);

await check('properties: getAll', async () => {
  has('dealname', await propertyNames('deals'), 'names');
  has('email', await propertyNames('contacts'), 'names');
});

for (const [kind, groupName] of [['deals', 'dealinformation'], ['contacts', 'contactinformation']]) {
  await check(`properties: create unique ${KEY} on ${kind}, getByName, second create refused`, async () => {
    const api = crm.properties.coreApi;
    const wanted = { name: KEY, label: 'SDK key', type: 'string', fieldType: 'text', groupName, hasUniqueValue: true };
    try {
      same((await api.create(kind, wanted)).name, KEY, 'name');
    } catch (err) {
      if (err.code !== 409) throw err;
    }
    assert.ok(await poll(async () => (await propertyNames(kind)).includes(KEY)), 'the new property is not listed');
    const got = need(await api.getByName(kind, KEY), 'name', 'label', 'type', 'fieldType', 'groupName', 'description', 'options');
    same(got.hasUniqueValue, true, 'hasUniqueValue');
    await refused(() => api.create(kind, wanted), 409);
    await refused(() => api.getByName(kind, 'no_such_property'), 404);
  });
}

// --- contacts ---------------------------------------------------------------------

const { basicApi: cb, batchApi: cbatch } = crm.contacts;
const { basicApi: db, batchApi: dbatch } = crm.deals;
const people = {};
const ada = { properties: { email: mail('a'), firstname: 'Ada', lastname: 'Quill', [KEY]: key('ca') } };

await check('contacts: create', async () => {
  const made = sane(await settle(() => cb.create(ada)));
  same(made.properties.email, mail('a'), 'email');
  same(made.archived, false, 'archived');
  people.a = made.id;
});

await check('contacts: a second record with the same e-mail is a 409', async () => {
  const err = await refused(() => cb.create(ada), 409);
  need(err.body, 'message', 'category');
});

await check('contacts: batch create', async () => {
  const inputs = ['b', 'c', 'd'].map((n) => ({
    properties: { email: mail(n), firstname: n.toUpperCase(), lastname: 'Batch', [KEY]: key(`c${n}`) },
  }));
  const rows = done(await cbatch.create({ inputs }));
  same(rows.length, 3, 'rows');
  for (const n of ['b', 'c', 'd']) people[n] = sane(rows.find((r) => r.properties.email === mail(n))).id;
});

await check('contacts: getById with chosen properties', async () => {
  const { properties: p } = sane(await cb.getById(people.a, ['firstname', 'lastname', KEY]));
  same([p.firstname, p.lastname, p[KEY]], ['Ada', 'Quill', key('ca')]);
});

await check('contacts: getById through idProperty', async () => {
  const by = async (value, name) => (await cb.getById(value, undefined, undefined, undefined, undefined, name)).id;
  same(await by(mail('a'), 'email'), people.a, 'id by e-mail');
  same(await by(key('cb'), KEY), people.b, 'id by key');
});

await check('contacts: update by id and through idProperty', async () => {
  same(sane(await cb.update(people.a, { properties: { lastname: 'Reed' } })).id, people.a, 'id');
  same((await cb.update(key('cb'), { properties: { lastname: 'Moss' } }, KEY)).id, people.b, 'id');
  same((await cb.getById(people.a, ['lastname'])).properties.lastname, 'Reed', 'lastname');
  same((await cb.getById(people.b, ['lastname'])).properties.lastname, 'Moss', 'lastname');
});

await check('contacts: propertiesWithHistory, newest first', async () => {
  const past = (await cb.getById(people.a, undefined, ['lastname'])).propertiesWithHistory.lastname;
  same(past.slice(0, 2).map((v) => v.value), ['Reed', 'Quill'], 'history');
  for (const v of past) {
    need(v, 'sourceType');
    time(v.timestamp);
  }
});

await check('contacts: batch read by id and by idProperty', async () => {
  const common = { properties: ['email'], propertiesWithHistory: [] };
  let rows = done(await cbatch.read({ ...common, inputs: [{ id: people.c }, { id: people.d }] }));
  same(sorted(rows.map((r) => r.id)), sorted([people.c, people.d]), 'ids');
  rows = done(await cbatch.read({ ...common, idProperty: 'email', inputs: [{ id: mail('c') }] }));
  same(rows.map((r) => r.id), [people.c], 'ids');
});

await check('contacts: batch update and batch upsert', async () => {
  let rows = done(await cbatch.update({ inputs: [{ id: people.c, properties: { firstname: 'Cleo' } }] }));
  same(rows.map((r) => r.id), [people.c], 'ids');
  rows = done(await cbatch.upsert({
    inputs: [
      { id: key('cd'), idProperty: KEY, properties: { [KEY]: key('cd'), firstname: 'Dora' } },
      { id: key('ce'), idProperty: KEY, properties: { [KEY]: key('ce'), email: mail('e'), firstname: 'Eve' } },
    ],
  }));
  same(rows.length, 2, 'rows');
  // The answer's `new` is called `_new` here.
  same(rows.find((r) => r.id === people.d)?._new, false, 'new flag of the known one');
  const eve = rows.find((r) => r.id !== people.d);
  same(eve._new, true, 'new flag of the added one');
  people.e = eve.id;
});

// --- deals ------------------------------------------------------------------------

const sales = {};
const deal = (name, more = {}) => ({ dealname: `${name} ${RUN}`, pipeline: pipe.id, dealstage: stageA, ...more });
const dealToContact = { associationCategory: 'HUBSPOT_DEFINED', associationTypeId: 3 };

await check('deals: create with an association', async () => {
  const made = sane(await settle(() => db.create({
    properties: deal('Pier', { amount: '120.50', [KEY]: key('da') }),
    associations: [{ to: { id: people.a }, types: [dealToContact] }],
  })));
  sales.a = made.id;
});

await check('deals: getById with properties, history and associations', async () => {
  const got = sane(await db.getById(sales.a, ['dealname', 'amount', 'no_such_property'], ['dealstage'], ['contacts']));
  same(Number(got.properties.amount), 120.5, 'amount');
  same(got.properties.no_such_property ?? null, null, 'unknown property');
  same(got.propertiesWithHistory.dealstage[0].value, stageA, 'stage');
  const linked = got.associations.contacts.results;
  has(people.a, linked.map((x) => x.id), 'associated ids');
  for (const x of linked) need(x, 'id', 'type');
});

await check('deals: getById through idProperty, unknown key is a 404', async () => {
  const by = (value) => db.getById(value, undefined, undefined, undefined, undefined, KEY);
  same((await by(key('da'))).id, sales.a, 'id');
  await refused(() => by(key('nobody')), 404);
});

await check('deals: a taken unique value is refused', async () => {
  await refused(() => db.create({ properties: deal('Twin', { [KEY]: key('da') }) }), 400, 409);
});

await check('deals: update by id and through idProperty, empty string clears', async () => {
  await db.update(sales.a, { properties: { dealstage: stageB } });
  await db.update(key('da'), { properties: { amount: '' } }, KEY);
  const { properties: p } = await db.getById(sales.a, ['dealstage', 'amount']);
  same(p.dealstage, stageB, 'stage');
  assert.ok(!p.amount, `amount is still ${p.amount}`);
});

await check('deals: batch create', async () => {
  const names = ['b', 'c', 'd'];
  const rows = done(await dbatch.create({ inputs: names.map((n) => ({ properties: deal(`Lot ${n}`, { [KEY]: key(`d${n}`) }) })) }));
  same(rows.length, 3, 'rows');
  for (const n of names) sales[n] = sane(rows.find((r) => r.properties[KEY] === key(`d${n}`))).id;
});

await check('deals: batch create with trace ids, one bad row, is a 207 with both outcomes', async () => {
  const answer = await dbatch.createWithHttpInfo({
    inputs: [
      { objectWriteTraceId: 't-good', properties: deal('Good') },
      { objectWriteTraceId: 't-bad', properties: deal('Bad', { no_such_property: 'x' }) },
    ],
  });
  same(answer.httpStatusCode, 207, 'status');
  const got = answer.data;
  same(got.results.map((r) => r.objectWriteTraceId), ['t-good'], 'traces');
  same(got.numErrors, 1, 'numErrors');
  same(got.errors[0].context.objectWriteTraceId, ['t-bad'], 'trace of the error');
  sales.good = got.results[0].id;
});

await check('deals: batch read by idProperty, with history', async () => {
  const rows = done(await dbatch.read({
    idProperty: KEY,
    properties: ['dealname', KEY],
    propertiesWithHistory: ['dealstage'],
    inputs: [{ id: key('da') }, { id: key('db') }],
  }));
  same(sorted(rows.map((r) => `${r.properties[KEY]}=${r.id}`)), sorted([`${key('da')}=${sales.a}`, `${key('db')}=${sales.b}`]), 'ids by key');
  const first = rows.find((r) => r.id === sales.a);
  same(first.propertiesWithHistory.dealstage.slice(0, 2).map((v) => v.value), [stageB, stageA], 'history');
});

await check('deals: batch read with a missing id is a 207 that names it', async () => {
  const answer = await dbatch.readWithHttpInfo({
    idProperty: KEY, properties: [KEY], propertiesWithHistory: [], inputs: [{ id: key('da') }, { id: key('nobody') }],
  });
  same(answer.httpStatusCode, 207, 'status');
  const got = answer.data;
  same(got.results.map((r) => r.id), [sales.a], 'ids');
  same(got.numErrors, 1, 'numErrors');
  same([got.errors[0].category, got.errors[0].context.ids], ['OBJECT_NOT_FOUND', [key('nobody')]], 'error');
});

await check('deals: batch update', async () => {
  let rows = done(await dbatch.update({ inputs: [{ id: sales.b, properties: { amount: '7' } }] }));
  same(rows.map((r) => r.id), [sales.b], 'ids');
  rows = done(await dbatch.update({ inputs: [{ id: key('dc'), idProperty: KEY, properties: { amount: '8' } }] }));
  same(rows.map((r) => r.id), [sales.c], 'ids');
  same(Number((await db.getById(sales.c, ['amount'])).properties.amount), 8, 'amount');
});

await check('deals: batch upsert, then the same again makes nothing new', async () => {
  const ask = {
    inputs: ['b', 'e'].map((n) => ({
      id: key(`d${n}`), idProperty: KEY, objectWriteTraceId: `u-${n}`, properties: deal(`Up ${n}`, { [KEY]: key(`d${n}`) }),
    })),
  };
  const rows = done(await dbatch.upsert(ask));
  same(sorted(rows.map((r) => `${r.objectWriteTraceId} ${r._new}`)), ['u-b false', 'u-e true'], 'new flags');
  sales.e = rows.find((r) => r._new).id;
  same(done(await dbatch.upsert(ask)).map((r) => r._new), [false, false], 'new flags of the repeat');
});

// --- associations -------------------------------------------------------------------

const { basicApi: ab, batchApi: abatch } = crm.associations.v4;
const linkedTo = async (id) => sorted((await ab.getPage('deals', id, 'contacts')).results.map((x) => String(x.toObjectId)));

await check('associations v4: labels', async () => {
  const { results } = await crm.associations.v4.schema.definitionsApi.getAll('deals', 'contacts');
  has('HUBSPOT_DEFINED 3', results.map((x) => `${x.category} ${x.typeId}`), 'definitions');
});

await check('associations v4: createDefault and getPage', async () => {
  done(await ab.createDefault('deals', sales.b, 'contacts', people.b));
  same(await linkedTo(sales.b), [people.b], 'linked');
});

await check('associations v4: create with a type, then archive the pair', async () => {
  const pair = await ab.create('deals', sales.c, 'contacts', people.c, [dealToContact]);
  need(pair, 'fromObjectTypeId', 'toObjectTypeId', 'labels');
  same([String(pair.fromObjectId), String(pair.toObjectId)], [sales.c, people.c], 'pair');
  await ab.archive('deals', sales.c, 'contacts', people.c);
  same(await linkedTo(sales.c), [], 'linked');
});

await check('associations v4: batch create and batch createDefault', async () => {
  // The wire name `from` is spelt `_from` in this package; a plain `from` would be dropped.
  let rows = done(await abatch.create('deals', 'contacts', {
    inputs: [{ _from: { id: sales.c }, to: { id: people.c }, types: [dealToContact] }],
  }));
  assert.ok(rows.length, 'batch create gave no row');
  rows = done(await abatch.createDefault('deals', 'contacts', {
    inputs: [['c', 'd'], ['d', 'd']].map(([d, c]) => ({ _from: { id: sales[d] }, to: { id: people[c] } })),
  }));
  has(`${sales.d}>${people.d}`, rows.map((x) => `${x._from.id}>${x.to.id}`), 'links');
});

await check('associations v4: batch read', async () => {
  const rows = done(await abatch.getPage('deals', 'contacts', { inputs: ['b', 'c', 'd'].map((n) => ({ id: sales[n] })) }));
  const seen = Object.fromEntries(rows.map((x) => [x._from.id, sorted(x.to.map((t) => String(t.toObjectId)))]));
  same(seen, { [sales.b]: [people.b], [sales.c]: sorted([people.c, people.d]), [sales.d]: [people.d] }, 'links');
  for (const t of rows.flatMap((x) => x.to)) need(t.associationTypes[0], 'category', 'typeId');
});

await check('associations v4: batch archive, then batch read finds nothing', async () => {
  await abatch.archive('deals', 'contacts', { inputs: [{ _from: { id: sales.d }, to: [{ id: people.d }] }] });
  const got = await abatch.getPage('deals', 'contacts', { inputs: [{ id: sales.d }] });
  same((got.results ?? []).flatMap((x) => x.to), [], 'links left');
});

// --- lists --------------------------------------------------------------------------

await check('deals: getPage walks every record once', async () => {
  const seen = [];
  let after;
  do {
    const size = seen.length < 6 ? 3 : 100;
    const page = await db.getPage(size, after, ['dealname', KEY], undefined, ['contacts']);
    seen.push(...page.results);
    after = page.paging?.next?.after;
    assert.ok(!after || page.results.length, 'an empty page with a next cursor');
  } while (after);
  const ids = seen.map((r) => r.id);
  same(ids.length, new Set(ids).size, 'ids without repeats');
  for (const id of Object.values(sales)) has(id, ids, 'listed ids');
  has(people.a, seen.find((r) => r.id === sales.a).associations.contacts.results.map((x) => x.id), 'associated ids');
});

await check('contacts: getAll helper', async () => {
  const ids = (await crm.contacts.getAll(100, undefined, ['email'])).map((r) => r.id);
  for (const id of Object.values(people)) has(id, ids, 'listed ids');
});

// --- search -------------------------------------------------------------------------

await check('deals: search, waiting for the index', async () => {
  const names = ['a', 'b', 'c', 'd', 'e'];
  const ask = {
    filterGroups: [{ filters: [{ propertyName: KEY, operator: 'IN', values: names.map((n) => key(`d${n}`)) }] }],
    sorts: ['hs_object_id'],
    properties: ['dealname', KEY],
    limit: 3,
    after: 0,
  };
  const page = await poll(async () => {
    const got = await crm.deals.searchApi.doSearch(ask);
    return got.total === names.length ? got : null;
  }, SEARCH_WAIT, 1000);
  assert.ok(page, `the index did not catch up in ${SEARCH_WAIT} s`);
  same(page.results.length, 3, 'rows of page one');
  const rest = await crm.deals.searchApi.doSearch({ ...ask, after: page.paging.next.after });
  const ids = [...page.results, ...rest.results].map((r) => sane(r).id);
  same(ids, names.map((n) => sales[n]).sort((x, y) => Number(x) - Number(y)), 'ids in order');
  assert.ok(!rest.paging?.next, 'a cursor after the last page');
});

await check('contacts: search by e-mail, waiting for the index', async () => {
  const ask = {
    filterGroups: [{ filters: [{ propertyName: 'email', operator: 'EQ', value: mail('a') }] }],
    sorts: [{ propertyName: 'createdate', direction: 'DESCENDING' }],
    properties: ['email'],
    limit: 5,
  };
  const rows = await poll(async () => {
    const got = await crm.contacts.searchApi.doSearch(ask);
    return got.results.length ? got.results : null;
  }, SEARCH_WAIT, 1000);
  same((rows ?? []).map((r) => r.id), [people.a], 'ids');
});

// --- merge --------------------------------------------------------------------------

async function merge(api, primaryObjectId, objectIdToMerge) {
  const kept = sane(await api.merge({ primaryObjectId, objectIdToMerge }));
  for (const old of [primaryObjectId, objectIdToMerge]) same((await api.getById(old)).id, kept.id, `where ${old} leads`);
  const list = (await api.getById(kept.id, ['hs_merged_object_ids'])).properties.hs_merged_object_ids ?? '';
  has(objectIdToMerge, list.split(';'), 'merged ids');
  return kept.id;
}

await check('deals: merge', async () => {
  const left = await db.create({ properties: deal('Left') });
  const right = await db.create({ properties: deal('Right') });
  sales.merged = await merge(db, left.id, right.id);
});

await check('contacts: merge', async () => {
  const left = await cb.create({ properties: { email: mail('left'), firstname: 'Left' } });
  const right = await cb.create({ properties: { email: mail('right'), firstname: 'Right' } });
  people.merged = await merge(cb, left.id, right.id);
});

// --- archive ------------------------------------------------------------------------

async function listedArchived(api, wanted) {
  const left = new Set(wanted);
  let after;
  do {
    const page = await api.getPage(100, after, undefined, undefined, undefined, true);
    for (const r of page.results) {
      if (!left.delete(r.id)) continue;
      same(r.archived, true, `archived of ${r.id}`);
      time(r.archivedAt);
    }
    after = page.paging?.next?.after;
  } while (after && left.size);
  same([...left], [], 'records not in the archived list');
}

await check('deals: archive one', async () => {
  await db.archive(sales.a);
  await refused(() => db.getById(sales.a), 404);
  const got = await db.getById(sales.a, undefined, undefined, undefined, true);
  same(got.archived, true, 'archived');
  time(got.archivedAt);
});

await check('deals: batch archive, archived list, archived batch read', async () => {
  const { a, ...rest } = sales;
  await dbatch.archive({ inputs: Object.values(rest).map((id) => ({ id })) });
  await listedArchived(db, [a, ...Object.values(rest)]);
  const rows = done(await dbatch.read({ properties: ['dealname'], propertiesWithHistory: [], inputs: [{ id: sales.b }] }, true));
  same(rows.map((r) => [r.id, r.archived]), [[sales.b, true]], 'rows');
});

await check('contacts: archive one, batch archive the rest, archived list', async () => {
  const { a, ...rest } = people;
  await cb.archive(a);
  await refused(() => cb.getById(a), 404);
  await cbatch.archive({ inputs: Object.values(rest).map((id) => ({ id })) });
  await listedArchived(cb, [a, ...Object.values(rest)]);
});

// --- OAuth --------------------------------------------------------------------------

const { CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN } = process.env;
const refresh = (token) => hub.oauth.tokensApi.create('refresh_token', undefined, undefined, CLIENT_ID, CLIENT_SECRET, token);
const needApp = () => {
  if (!CLIENT_ID || !CLIENT_SECRET || !REFRESH_TOKEN) throw new Skip('CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN are not all set');
};
let fresh;

await check('oauth: refresh, the new token works', async () => {
  needApp();
  fresh = need(await refresh(REFRESH_TOKEN), 'accessToken', 'refreshToken', 'tokenType', 'expiresIn');
  assert.ok(fresh.expiresIn > 0, 'expiresIn');
  same(fresh.tokenType.toLowerCase(), 'bearer', 'token type');
  await connect(fresh.accessToken).crm.deals.basicApi.getPage(1);
});

await check('oauth: a wrong refresh token is a 400', async () => {
  needApp();
  await refused(() => refresh('wrong'), 400);
});

await check('oauth: token details (v1 paths)', async () => {
  needApp();
  try {
    const info = await hub.oauth.accessTokensApi.get(fresh.accessToken);
    same(info.token, fresh.accessToken, 'token');
    need(info, 'hubId', 'userId', 'appId', 'scopes', 'tokenType', 'expiresIn');
    same((await hub.oauth.refreshTokensApi.get(REFRESH_TOKEN)).hubId, info.hubId, 'hub id');
  } catch (err) {
    if (err.code === 404) throw new Skip('the v1 token-information paths are not served');
    throw err;
  }
});

console.log(`${passed} passed, 0 failed, ${skipped} skipped`);
