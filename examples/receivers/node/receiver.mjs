// Receives leadsbotd webhooks with nothing but Node's own modules (Node 18 or newer):
//
//     LEADSBOT_SECRET=... node receiver.mjs
//
// Every event becomes one file, STORE/<event id>.json, holding the exact bytes that were signed.
// A file per event lets the file system decide which of two deliveries came first, so it stays
// right with several processes (cluster, pm2) and after a crash at any moment.
//
// It must never answer 2xx before the event would survive a power cut: after a 2xx the sender
// considers the event delivered and does not send it again.

import { createHmac, randomUUID, timingSafeEqual } from 'node:crypto';
import { link, mkdir, open, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { dirname, join, resolve } from 'node:path';

const BODY_BYTES_MAX = 1024 * 1024;

const { LEADSBOT_SECRET, LEADSBOT_SECRET_NEXT, HOST, PORT, STORE } = process.env;
if (!LEADSBOT_SECRET) {
  console.error('LEADSBOT_SECRET is not set: give it the secret of the destination in leadsbotd');
  process.exit(2);
}
// An empty second secret is no secret: with '' as a key anybody could sign.
const secrets = [LEADSBOT_SECRET, LEADSBOT_SECRET_NEXT].filter(Boolean);
const store = resolve(STORE || 'events');
await mkdir(store, { recursive: true, mode: 0o700 }); // people's details: for this user only
await syncDirectory(dirname(store));

const server = createServer(async (req, res) => {
  let status, answer;
  try {
    [status, answer] = await receive(req);
  } catch (error) {
    if (req.errored) return; // the sender hung up; it will send again
    console.error(error);
    [status, answer] = [500, { error: 'internal error' }];
  }
  const body = JSON.stringify(answer);
  const allow = status === 405 ? { Allow: 'POST' } : {};
  res.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body), ...allow });
  res.end(body);
});
// Longer than senders keep an idle connection, so that they close it and never write into a closed one.
server.keepAliveTimeout = 75_000;
server.listen(Number(PORT || 9000), HOST || '127.0.0.1', () => {
  const { address, port } = server.address();
  console.log(`listening on http://${address}:${port}`);
});

async function receive(req) {
  if (req.method !== 'POST') return [405, { error: 'only POST is accepted here' }];

  const rawBody = await readBody(req);
  if (rawBody === null) return [413, { error: `the body is larger than ${BODY_BYTES_MAX} bytes` }];
  if (!isSigned(rawBody, req.headers)) return [401, { error: 'no valid signature' }];

  let event;
  try {
    // `fatal`, because Buffer.toString() would quietly replace bytes that are not UTF-8.
    event = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(rawBody));
  } catch {
    return [400, { error: 'the body is not JSON' }];
  }
  const id = eventId(req.headers['x-leadsbot-event-id'], event);
  if (id === null) return [400, { error: 'no usable event id' }];

  try {
    const isNew = await keep(id, rawBody);
    // Do slow work (mail, CRM, ...) from the store, not here: the sender waits for this answer.
    return [200, { status: isNew ? 'stored' : 'duplicate' }];
  } catch (error) {
    console.error(`${id}: not stored:`, error);
    return [503, { error: 'the event could not be stored' }];
  }
}

/** The body's bytes as they came, or null when there are too many of them. */
async function readBody(req) {
  const chunks = [];
  let size = 0;
  for await (const chunk of req) {
    size += chunk.length;
    if (size <= BODY_BYTES_MAX) chunks.push(chunk);
    // Reading on without keeping lets the sender finish and see the 413 instead of a reset; not for ever, though.
    else if (size > 8 * BODY_BYTES_MAX) req.destroy(new Error('body far too large'));
  }
  return size <= BODY_BYTES_MAX ? Buffer.concat(chunks) : null;
}

/** True when a signature header was made from these bytes with one of our secrets. */
function isSigned(rawBody, headers) {
  // Checked first, because timingSafeEqual throws on different lengths.
  const given = [headers['x-leadsbot-signature'], headers['x-leadsbot-signature-next']]
    .filter((value) => value !== undefined && /^[0-9a-f]{64}$/.test(value))
    .map((hex) => Buffer.from(hex, 'hex'));
  return secrets.some((secret) => {
    const expected = createHmac('sha256', secret).update(rawBody).digest();
    return given.some((signature) => timingSafeEqual(signature, expected));
  });
}

/** The id to tell duplicates by, or null; strict, because it becomes a file name. */
function eventId(header, event) {
  const inBody = typeof event?.id === 'string' ? event.id : undefined;
  const id = header ?? inBody;
  // The signature covers the body, not the headers: nobody may pass an old event off as a new one.
  if (inBody?.startsWith('evt_') && inBody !== id) return null;
  return /^[A-Za-z0-9_-]{1,64}$/.test(id ?? '') ? id : null;
}

/** Puts the event on the disk; false when it was there already. */
async function keep(id, rawBody) {
  const draft = join(store, `.${id}.${randomUUID()}`);
  let isNew = true;
  try {
    const file = await open(draft, 'wx', 0o600);
    try {
      await file.writeFile(rawBody);
      await file.sync();
    } finally {
      await file.close();
    }
    await link(draft, join(store, `${id}.json`)); // all or nothing, and only one can win
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
    isNew = false;
  } finally {
    await rm(draft, { force: true });
  }
  // For a duplicate too: the delivery that created the file may not have got this far yet.
  await syncDirectory(store);
  return isNew;
}

/** A new name in a directory survives a power cut only once the directory itself is synced. */
async function syncDirectory(path) {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
