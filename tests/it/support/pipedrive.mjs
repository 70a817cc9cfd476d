// Asks for a person with Pipedrive's own client, found in the folder that is the one argument, and holds what that sends against the request
// that `leadsbotd --json preview` prints on standard input. Nothing leaves this process.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(`${process.argv[2]}/`);
const axios = require('axios');
const { Configuration, PersonsApi } = require('pipedrive/v2');

const ours = JSON.parse(readFileSync(0, 'utf8')).request;
const url = new URL(ours.to);
const asked = Object.fromEntries(url.searchParams);
let theirs;
axios.defaults.adapter = async (config) => {
  theirs = config;
  return { data: {}, status: 200, statusText: '', headers: {}, config };
};
const api = new PersonsApi(new Configuration({ apiKey: 'token', basePath: `${url.origin}/api/v2` }));
await api.searchPersons({ ...asked, exact_match: asked.exact_match === 'true', limit: Number(asked.limit) });
const sent = new URL(theirs.url);
assert.equal(ours.verb, theirs.method.toUpperCase());
assert.equal(url.pathname, sent.pathname);
assert.deepEqual(asked, Object.fromEntries(sent.searchParams));
assert.ok('x-api-token' in theirs.headers && 'x-api-token' in ours.headers);
