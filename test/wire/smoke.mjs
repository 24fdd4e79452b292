// See smoke.sh. Arguments: the repository, and the URLs with commas between.
import assert from 'node:assert/strict';
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import path from 'node:path';
import { randomUUID } from 'node:crypto';

import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const [repo, urls] = process.argv.slice(2);
const endpoints = urls.split(',');
const b64 = (text) => Buffer.from(text).toString('base64');
const zero = { n: 0, l: 0, c: 0 };
const outside = { transactionId: zero, coordinatorKey: '', operationIdHigh: 0, operationIdLow: 0 };
const headers = { accept: 'application/json', authorization: 'Bearer xxx', 'content-type': 'application/json' };

// --- REST ---

const overHTTP1 = (base) => {
  const lib = base.startsWith('https') ? https : http;
  const agent = new lib.Agent({ keepAlive: true, rejectUnauthorized: false });
  const call = (method, route, body) =>
    new Promise((resolve, reject) => {
      const req = lib.request(`${base}${route}`, { method, headers, agent }, (res) => {
        let text = '';
        res.setEncoding('utf8').on('data', (d) => (text += d)).on('end', () => resolve({ status: res.statusCode, body: JSON.parse(text) }));
      });
      req.on('error', reject).end(body === undefined ? undefined : JSON.stringify(body));
    });
  return { call, close: () => agent.destroy() };
};

const overHTTP2 = (base) => {
  const session = http2.connect(base, { rejectUnauthorized: false });
  const call = (method, route, body) =>
    new Promise((resolve, reject) => {
      const req = session.request({ ...headers, ':method': method, ':path': route });
      let text = '', status;
      req.on('response', (h) => (status = h[':status'])).on('error', reject);
      req.setEncoding('utf8').on('data', (d) => (text += d)).on('end', () => resolve({ status, body: JSON.parse(text) }));
      req.end(body === undefined ? undefined : JSON.stringify(body));
    });
  return { call, close: () => session.close() };
};

async function rest(base, transport, durability) {
  const { call, close } = transport(base);
  const post = async (route, body) => {
    const { status, body: answer } = await call('POST', `/v1/${route}`, body);
    assert.equal(status, 200, `${route}: ${JSON.stringify(answer)}`);
    return answer;
  };
  try {
    const name = `smoke/${randomUUID()}`;
    const lock = { resource: name, owner: b64('me'), expiresMs: 10_000, durability };
    const got = await post('locks/try-lock', lock);
    assert.equal(got.type, 0);
    assert.match(got.route.endpoint, /^https:\/\/127\.0\.0\.1:\d+$/);
    assert.equal((await post('locks/try-lock', { ...lock, owner: b64('you') })).type, 1);
    assert.equal((await post('locks/try-extend', { ...lock, expiresMs: 20_000 })).fencingToken, got.fencingToken);
    assert.equal((await post('locks/get-info', { resource: name, durability })).owner, b64('me'));
    assert.equal((await post('locks/try-unlock', lock)).type, 3);

    const at = { ...outside, key: name, durability };
    assert.equal((await post('kv/try-set', { ...at, value: b64('one'), expiresMs: 0, flags: 1 })).revision, 0);
    assert.equal((await post('kv/try-set', { ...at, value: null, expiresMs: 0, flags: 1 })).revision, 1);
    assert.equal((await post('kv/try-get', { ...at, revision: -1, readTimestamp: zero })).value, null);
    assert.equal((await post('kv/try-get', { ...at, revision: 0, readTimestamp: zero })).value, b64('one'));
    const large = 'x'.repeat(1 << 20);
    assert.equal((await post('kv/try-set', { ...at, value: b64(large), expiresMs: 0, flags: 1 })).type, 0);
    assert.equal((await post('kv/try-get', { ...at, revision: -1, readTimestamp: zero })).value, b64(large));
    assert.equal((await post('kv/try-delete', at)).type, 4);

    const many = await post('kv/try-set-many', { items: [1, 2, 3].map((i) => ({ transactionId: zero, key: `${name}/${i}`, value: b64(`${i}`), flags: 1, durability })) });
    assert.ok(many.items.every((i) => i.type === 0 && many.routes[i.routeIndex - 1].partitionId === 1));
    let cursor = null, rows = [];
    do {
      const page = await post('kv/get-by-range', { ...outside, prefix: `${name}/`, limit: 2, readTimestamp: zero, durability, cursor });
      rows = rows.concat(page.items);
      cursor = page.hasMore ? page.nextCursor : null;
    } while (cursor);
    assert.deepEqual(rows.map((r) => r.key), [1, 2, 3].map((i) => `${name}/${i}`));
    assert.equal((await post('kv/get-by-bucket', { ...outside, prefixKey: name, readTimestamp: zero, durability })).items.length, 3);

    if (durability === 1) {
      assert.equal((await post('sequences/create', { name, initialValue: 0, increment: 2, maxValue: null, blockSize: 1, durability: 1 })).type, 0);
      assert.equal((await post('sequences/next', { name, idempotencyKey: null, durability: 1 })).allocation.start, 2);
      assert.equal((await post('sequences/get', { name, durability: 1 })).sequence.blockSize, 1);
      assert.equal((await post('sequences/delete', { name, durability: 1 })).type, 0);
    }
    const start = await post('kv/start-tx-session', { coordinatorKey: name, timeout: 5000, lockingType: 0, readTimestamp: zero });
    assert.equal(start.type, 0);
    const inside = (low) => ({ transactionId: start.transactionId, coordinatorKey: name, operationIdHigh: 1, operationIdLow: low, key: name, durability });
    assert.equal((await post('kv/try-acquire-exclusive-lock', { ...inside(1), expiresMs: 5000 })).type, 5);
    assert.equal((await post('kv/try-set', { ...inside(2), value: b64('tx'), flags: 1 })).type, 0);
    assert.equal((await post('kv/try-get', { ...at, revision: -1, readTimestamp: zero })).type, 103);
    assert.equal((await post('kv/commit-tx-session', { coordinatorKey: name, transactionId: start.transactionId, recordAnchorKey: null })).type, 8);
    assert.equal((await post('kv/try-get', { ...at, revision: -1, readTimestamp: zero })).value, b64('tx'));

    assert.equal((await call('GET', '/v1/cluster/health')).body.ready, true);
    const routing = (await call('GET', '/v1/cluster/routing?keySpace=')).body;
    assert.ok(routing.coherent && /^https:/.test(routing.leaders[0].endpoint));
    assert.equal((await call('POST', '/v1/kv/try-get', { key: 5 })).status, 400);
  } finally {
    close();
  }
}

// --- gRPC ---

const protos = loader.loadSync(['locks', 'keyvalues', 'sequences', 'cluster'].map((n) => path.join(repo, `localapi/kahuna/kahunapb/${n}.proto`)), {
  includeDirs: [repo], keepCase: true, longs: Number, enums: Number, defaults: true,
});
const pkg = grpc.loadPackageDefinition(protos);

async function overGRPC(base) {
  const credentials = base.startsWith('https')
    ? grpc.credentials.createSsl(null, null, null, { rejectUnauthorized: false })
    : grpc.credentials.createInsecure();
  const target = new URL(base).host;
  const options = { 'grpc.keepalive_time_ms': 10_000, 'grpc.keepalive_permit_without_calls': 1, 'grpc.max_receive_message_length': 8 << 20 };
  const clients = ['Locker', 'KeyValuer', 'Sequencer', 'Cluster'].map((n) => new pkg[n](target, credentials, options));
  const [locker, keyValuer, sequencer, cluster] = clients;
  const unary = (client, method, req) => new Promise((resolve, reject) => client[method](req, (e, a) => (e ? reject(e) : resolve(a))));
  const name = `smoke/${randomUUID()}`;
  try {
    // Both batch streams at once, answers matched by id whatever their order.
    const batch = (stream, requests) =>
      new Promise((resolve, reject) => {
        const answers = new Map();
        stream.on('data', (a) => answers.set(a.RequestId, a)).on('error', reject).on('end', () => resolve(answers));
        for (const r of requests) stream.write(r);
        stream.end(); // half-closed: what is in flight is still answered
      });
    const N = 500;
    const [sets, locks] = await Promise.all([
      batch(keyValuer.BatchClientKeyValueRequests(), Array.from({ length: N }, (_, i) => ({
        Type: 1, RequestId: i + 1, TrySetKeyValue: { Key: `${name}/${i}`, Value: Buffer.from(`${i}`), Flags: 1, Durability: 1 } }))),
      batch(locker.BatchClientLockRequests(), Array.from({ length: N }, (_, i) => ({
        Type: 1, RequestId: i + 1, TryLock: { Resource: `${name}/${i}`, Owner: Buffer.from('me'), ExpiresMs: 10_000, Durability: i % 2 } }))),
    ]);
    assert.equal(sets.size, N);
    assert.equal(locks.size, N);
    for (const a of sets.values()) assert.ok(a.Type === 1 && a.TrySetKeyValue.Type === 0, JSON.stringify(a));
    for (const a of locks.values()) assert.ok(a.Type === 1 && a.TryLock.Type === 0 && a.TryLock.Route.PartitionId === 1, JSON.stringify(a));

    const got = await unary(keyValuer, 'TryGetKeyValue', { Key: `${name}/7`, Revision: -1, Durability: 1 });
    assert.equal(got.Value.toString(), '7');
    let rows = 0;
    for await (const page of keyValuer.GetByRangeStream({ Prefix: `${name}/`, StartInclusive: true, Limit: 100, Durability: 1 })) rows += page.Items.length;
    assert.equal(rows, N);
    assert.equal((await unary(locker, 'Unlock', { Resource: `${name}/1`, Owner: Buffer.from('me'), Durability: 1 })).Type, 3);
    assert.equal((await unary(sequencer, 'CreateSequence', { Name: name, Increment: 1, Durability: 1 })).Type, 0);
    assert.equal((await unary(sequencer, 'NextSequenceValue', { Name: name, Durability: 1 })).Allocation.Start, 1);
    assert.equal((await unary(cluster, 'GetMembership', {})).Members.length, 3);
    const script = await unary(keyValuer, 'TryExecuteTransactionScript', { Script: Buffer.from('SET `' + name + "` 'scripted' RETURN 1") });
    assert.equal(script.Type, 3, script.Reason);
    await assert.rejects(unary(keyValuer, 'TrySetKeyValue', { Key: name, Value: Buffer.alloc(7 << 20), Durability: 1 }), { code: grpc.status.RESOURCE_EXHAUSTED });
  } finally {
    clients.forEach((c) => c.close());
  }
}

let failed = 0;
const run = async (what, f) => {
  try {
    await f();
    console.log(`ok   ${what}`);
  } catch (error) {
    failed++;
    console.log(`FAIL ${what}\n${error.stack}`);
  }
};
for (const base of endpoints) {
  for (const [d, durability] of ['ephemeral', 'persistent'].entries()) {
    await run(`REST, HTTP/1.1, ${durability}, ${base}`, () => rest(base, overHTTP1, d));
    await run(`REST, HTTP/2, ${durability}, ${base}`, () => rest(base, overHTTP2, d));
  }
  await run(`gRPC, ${base}`, () => overGRPC(base));
}
process.exit(failed ? 1 : 0);
