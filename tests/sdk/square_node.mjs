// Drive a Square-shaped server with the official npm package `square`, unchanged: what a till's own applications do.
// BASE_URL, TOKEN: where and with what. CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN: an application and its grant. CONTROL_URL: where
// the sandbox's settings are. SDK_DIR: the folder whose node_modules holds the package.
// One line is printed for each check; the first failure ends the run with exit code 1.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const { BASE_URL, CLIENT_ID, CLIENT_SECRET, CONTROL_URL, REFRESH_TOKEN, SDK_DIR, TOKEN } = process.env;
const { SquareClient, SquareError, WebhooksHelper } = createRequire(path.join(path.resolve(SDK_DIR), 'x.js'))('square');
const connect = (token, maxRetries = 4) => new SquareClient({ token, baseUrl: BASE_URL, maxRetries });
const client = connect(TOKEN);
const check = async (name, work) => {
  await work();
  console.log(`ok   square npm: ${name}`);
};
const run = Date.now().toString(16);
const usd = (amount) => ({ amount: BigInt(amount), currency: 'USD' });
let merchant;
let location;
let customer;

/** Asks until something truthy comes, or time is up: what was written a moment ago is in no list yet. */
const later = async (ask, seconds = 60) => {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const got = await ask();
    if (got || Date.now() > end) return got;
    await sleep(1000);
  }
};

await check('the merchant and its locations', async () => {
  ({ merchant } = await client.merchants.get({ merchantId: 'me' }));
  assert.ok(merchant.id && merchant.currency);
  const { locations } = await client.locations.list();
  assert.equal(locations.length, 2);
  location = locations[0].id;
});
await check('a customer is made once under one key, read, changed by version, and a stale version is refused', async () => {
  const ask = { idempotencyKey: run, givenName: 'Ana', emailAddress: `ana.${run}@example.com` };
  ({ customer } = await client.customers.create(ask));
  assert.equal((await client.customers.create(ask)).customer.id, customer.id);
  const changed = await client.customers.update({ customerId: customer.id, familyName: 'Ito', version: customer.version });
  assert.equal(changed.customer.familyName, 'Ito');
  const stale = client.customers.update({ customerId: customer.id, familyName: 'Kaya', version: customer.version });
  await assert.rejects(stale, (error) => error instanceof SquareError && error.errors[0].code === 'VERSION_MISMATCH');
  assert.equal((await client.customers.get({ customerId: customer.id })).customer.familyName, 'Ito');
});
let crowd;
await check('customers in bulk: made once under their keys, changed by version, read, and a stale version fails alone', async () => {
  const named = (name) => ({ givenName: name, emailAddress: `${name}.${run}@example.com`, referenceId: `pd:${name}.${run}` });
  const customers = { [`b${run}`]: named('ben'), [`c${run}`]: named('cleo') };
  const made = (await client.customers.batchCreate({ customers })).responses;
  crowd = Object.keys(customers).map((key) => made[key].customer);
  assert.deepEqual(crowd.map((one) => one.givenName), ['ben', 'cleo']);
  const again = (await client.customers.batchCreate({ customers })).responses;
  assert.deepEqual(Object.keys(customers).map((key) => again[key].customer.id), crowd.map((one) => one.id));
  const change = (familyName) => client.customers.bulkUpdateCustomers({
    customers: {
      [crowd[0].id]: { familyName, version: crowd[0].version }, [crowd[1].id]: { familyName },
    },
  });
  const changed = (await change('Ito')).responses;
  assert.deepEqual(crowd.map((one) => changed[one.id].customer.familyName), ['Ito', 'Ito']);
  const stale = (await change('Kaya')).responses;
  assert.equal(stale[crowd[0].id].errors[0].code, 'VERSION_MISMATCH');
  assert.equal(stale[crowd[1].id].customer.familyName, 'Kaya');
  const read = (await client.customers.bulkRetrieveCustomers({ customerIds: crowd.map((one) => one.id) })).responses;
  assert.deepEqual(crowd.map((one) => read[one.id].customer.familyName), ['Ito', 'Kaya']);
});
await check('the catalog, as a list and by id', async () => {
  const objects = [];
  for await (const object of await client.catalog.list({ types: 'ITEM,CATEGORY' })) objects.push(object);
  const types = objects.map((object) => object.type);
  assert.ok(types.includes('ITEM') && types.includes('CATEGORY'));
  const item = objects.find((object) => object.itemData?.variations?.length);
  const [variation] = item.itemData.variations;
  const asked = { objectIds: [variation.id, 'nobody'], includeDeletedObjects: true, includeRelatedObjects: true };
  const got = await client.catalog.batchGet(asked);
  assert.deepEqual(got.objects.map((object) => object.id), [variation.id]);
  assert.equal(got.objects[0].itemVariationData.itemId, item.id);
  assert.ok(got.relatedObjects.some((object) => object.id === item.id));
});
let order;
let payment;
await check('an order, its payment, and a refund of part of it', async () => {
  const lineItems = [{ name: 'Serum', quantity: '1', basePriceMoney: usd(4500) }];
  ({ order } = await client.orders.create({ idempotencyKey: `o${run}`, order: { locationId: location, lineItems } }));
  assert.equal(order.totalMoney.amount, 4500n);
  ({ payment } = await client.payments.create({
    idempotencyKey: `p${run}`, sourceId: 'CASH', amountMoney: usd(4500), orderId: order.id, customerId: customer.id,
  }));
  assert.equal(payment.status, 'COMPLETED');
  const { refund } = await client.refunds.refundPayment({
    idempotencyKey: `r${run}`, paymentId: payment.id, amountMoney: usd(1000),
  });
  assert.equal(refund.status, 'COMPLETED');
  const { orders } = await client.orders.batchGet({ orderIds: [order.id, refund.orderId, 'nobody'] });
  assert.equal(orders.length, 2);
  const read = await client.payments.get({ paymentId: payment.id });
  assert.deepEqual([read.payment.orderId, read.payment.refundedMoney.amount], [order.id, 1000n]);
});
await check('orders, payments and refunds by time of change', async () => {
  await sleep(3500);
  const updatedAt = { startAt: new Date(Date.now() - 600_000).toISOString() };
  const { orders } = await client.orders.search({
    locationIds: [location],
    query: { filter: { dateTimeFilter: { updatedAt } }, sort: { sortField: 'UPDATED_AT', sortOrder: 'ASC' } },
  });
  assert.ok(orders.some((one) => one.id === order.id));
  const since = { updatedAtBeginTime: updatedAt.startAt, sortField: 'UPDATED_AT', sortOrder: 'ASC' };
  const ids = [];
  for await (const one of await client.payments.list({ ...since, locationId: location })) ids.push(one.id);
  assert.ok(ids.includes(payment.id));
  let refunds = 0;
  for await (const one of await client.refunds.list(since)) refunds += one.paymentId === payment.id ? 1 : 0;
  assert.equal(refunds, 1);
});
await check('a payment link carries its reference', async () => {
  const lineItems = [{ name: 'Deposit', quantity: '1', basePriceMoney: usd(10000) }];
  const { paymentLink } = await client.checkout.paymentLinks.create({
    idempotencyKey: `l${run}`, order: { locationId: location, referenceId: 'opp_1', lineItems },
  });
  assert.equal((await client.orders.get({ orderId: paymentLink.orderId })).order.referenceId, 'opp_1');
});
await check('an invoice is made for an order, published once, read, listed and searched', async () => {
  const lineItems = [{ name: 'Laser course', quantity: '1', basePriceMoney: usd(120000) }];
  const made = await client.orders.create({
    idempotencyKey: `io${run}`, order: { locationId: location, customerId: customer.id, lineItems },
  });
  const { invoice } = await client.invoices.create({
    idempotencyKey: `i${run}`,
    invoice: {
      locationId: location, orderId: made.order.id, title: 'Laser course', deliveryMethod: 'EMAIL',
      primaryRecipient: { customerId: customer.id }, acceptedPaymentMethods: { card: true },
      paymentRequests: [{ requestType: 'BALANCE', dueDate: new Date().toISOString().slice(0, 10) }],
    },
  });
  assert.deepEqual([invoice.status, invoice.orderId], ['DRAFT', made.order.id]);
  const publish = (idempotencyKey) => client.invoices.publish({ invoiceId: invoice.id, version: invoice.version, idempotencyKey });
  const published = await publish(`ip${run}`);
  assert.equal(published.invoice.status, 'UNPAID');
  assert.ok(published.invoice.publicUrl);
  assert.equal((await publish(`ip${run}`)).invoice.version, published.invoice.version);
  await assert.rejects(publish(`iq${run}`), (error) => error.errors[0].code === 'VERSION_MISMATCH');
  const read = await client.invoices.get({ invoiceId: invoice.id });
  assert.deepEqual([read.invoice.status, read.invoice.primaryRecipient.customerId], ['UNPAID', customer.id]);
  const listed = [];
  for await (const one of await client.invoices.list({ locationId: location })) listed.push(one.id);
  assert.ok(listed.includes(invoice.id));
  const found = await client.invoices.search({
    query: { filter: { locationIds: [location] }, sort: { field: 'INVOICE_SORT_DATE', order: 'DESC' } },
  });
  assert.equal(found.invoices.find((one) => one.id === invoice.id).orderId, made.order.id);
});
await check('customers in a list, and searched by address, reference and time of change, once lists have caught up', async () => {
  const search = async (filter) => {
    const { customers } = await client.customers.search({ query: { filter, sort: { field: 'CREATED_AT', order: 'ASC' } } });
    return (customers ?? []).map((one) => one.id);
  };
  const [ben, cleo] = crowd;
  assert.ok(await later(async () => (await search({ emailAddress: { exact: cleo.emailAddress } })).length > 0));
  assert.deepEqual(await search({ emailAddress: { exact: ben.emailAddress } }), [ben.id]);
  assert.deepEqual(await search({ referenceId: { exact: ben.referenceId } }), [ben.id]);
  const changed = await search({ updatedAt: { startAt: ben.createdAt, endAt: new Date(Date.now() + 60_000).toISOString() } });
  assert.ok(changed.includes(ben.id) && changed.includes(cleo.id));
  assert.deepEqual(await search({ updatedAt: { endAt: '2000-01-01T00:00:00Z' } }), []);
  const listed = [];
  for await (const one of await client.customers.list({ sortField: 'CREATED_AT', sortOrder: 'ASC', limit: 2 })) listed.push(one.id);
  assert.ok([customer, ben, cleo].every((one) => listed.includes(one.id)));
  assert.equal(new Set(listed).size, listed.length);
});
await check('a customer is deleted', async () => {
  await client.customers.delete({ customerId: crowd[1].id });
  await assert.rejects(client.customers.get({ customerId: crowd[1].id }), (error) => error.statusCode === 404);
});
await check('a grant is exchanged for a token that works, and a wrong one is not', async () => {
  const ask = { clientId: CLIENT_ID, clientSecret: CLIENT_SECRET, grantType: 'refresh_token' };
  const token = await client.oAuth.obtainToken({ ...ask, refreshToken: REFRESH_TOKEN });
  assert.equal(token.merchantId, merchant.id);
  assert.ok(token.refreshToken && new Date(token.expiresAt) > new Date());
  assert.equal((await connect(token.accessToken).merchants.get({ merchantId: 'me' })).merchant.id, merchant.id);
  await assert.rejects(client.oAuth.obtainToken({ ...ask, refreshToken: 'wrong' }), (error) => error.statusCode === 401);
});
await check('a consent is exchanged for another grant, once, and for the permissions that it names', async () => {
  const redirectUri = 'https://example.com/callback';
  const set = { method: 'POST', headers: { 'content-type': 'application/json' } };
  const registered = await fetch(`${CONTROL_URL}/__settings`, { ...set, body: JSON.stringify({ redirect_uri: redirectUri }) });
  assert.equal(registered.status, 200);
  // Opening the page on which a seller lets the application in is the browser's part, and none of the library's.
  const asked = { client_id: CLIENT_ID, scope: 'MERCHANT_PROFILE_READ', session: 'false', state: run, redirect_uri: redirectUri };
  const page = await fetch(`${BASE_URL}/oauth2/authorize?${new URLSearchParams(asked)}`, { redirect: 'manual' });
  const back = new URL(page.headers.get('location'));
  assert.deepEqual([`${back.origin}${back.pathname}`, back.searchParams.get('state')], [redirectUri, run]);
  const ask = {
    clientId: CLIENT_ID, clientSecret: CLIENT_SECRET, grantType: 'authorization_code', code: back.searchParams.get('code'), redirectUri,
  };
  const given = await client.oAuth.obtainToken(ask);
  assert.equal(given.merchantId, merchant.id);
  assert.ok(given.refreshToken && given.refreshToken !== REFRESH_TOKEN && new Date(given.expiresAt) > new Date());
  const app = connect(given.accessToken);
  assert.equal((await app.merchants.get({ merchantId: 'me' })).merchant.id, merchant.id);
  await assert.rejects(app.customers.get({ customerId: customer.id }), (error) => error.statusCode === 403);
  await assert.rejects(client.oAuth.obtainToken(ask), (error) => error.statusCode === 401);
});
await check('a subscription to webhooks, and the helper that verifies them', async () => {
  const { subscription } = await client.webhooks.subscriptions.create({
    idempotencyKey: `w${run}`,
    subscription: { name: 'sdk', eventTypes: ['payment.updated'], notificationUrl: 'https://example.com/hook' },
  });
  assert.ok(subscription.signatureKey);
  const fits = await WebhooksHelper.verifySignature({
    requestBody: '{}', signatureHeader: 'AAAA', signatureKey: subscription.signatureKey, notificationUrl: 'https://example.com/hook',
  });
  assert.equal(fits, false);
  await client.webhooks.subscriptions.delete({ subscriptionId: subscription.id });
});
await check('a wrong token', async () => {
  await assert.rejects(connect('nobody', 0).locations.list(), (error) => error.statusCode === 401);
});
