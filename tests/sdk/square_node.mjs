// Drive a Square-shaped server with the official npm package `square`, unchanged: what a till's own applications do.
// BASE_URL, TOKEN: where and with what. SDK_DIR: the folder whose node_modules holds the package.
// One line is printed for each check; the first failure ends the run with exit code 1.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const { SquareClient, SquareError, WebhooksHelper } = createRequire(path.join(path.resolve(process.env.SDK_DIR), 'x.js'))('square');
const client = new SquareClient({ token: process.env.TOKEN, baseUrl: process.env.BASE_URL, maxRetries: 4 });
const check = async (name, work) => {
  await work();
  console.log(`ok   square npm: ${name}`);
};
const run = Date.now().toString(16);
const usd = (amount) => ({ amount: BigInt(amount), currency: 'USD' });
let location;
let customer;

await check('locations', async () => {
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
await check('the catalog', async () => {
  const names = [];
  for await (const object of await client.catalog.list({ types: 'ITEM,CATEGORY' })) names.push(object.type);
  assert.ok(names.includes('ITEM') && names.includes('CATEGORY'));
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
  const stranger = new SquareClient({ token: 'nobody', baseUrl: process.env.BASE_URL, maxRetries: 0 });
  await assert.rejects(stranger.locations.list(), (error) => error.statusCode === 401);
});
