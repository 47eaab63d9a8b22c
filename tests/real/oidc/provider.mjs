// A certified OpenID provider (oidc-provider) for the tests: listens on the socket whose
// descriptor is its argument, knows the clients below, lets everybody sign in by address, and has a door for the tests:
//   GET  /door                                   what was asked of the token endpoint, and how many grants live
//   POST /door/reset                             forget everything
//   POST /door/revoke    {"person": "alice@…"}   end every grant of a person
//   POST /door/lifetime  {"seconds": 5}          lifetime of access tokens issued from now on
//   POST /door/fail      {"times": 2, "status": 503}   answer the next token requests with a status, unread
//   POST /door/client    {"client_id": …}       one more client, as RFC 7591 names its values; `mailbox` is whose
//                                                mail it may fetch and send by itself
//   POST /door/fail      {"times": 1, "lose": true}    do what they ask, then lose the answer
// It ends when its standard input does, so it cannot outlive the tests.
import { generateKeyPairSync, createHash } from 'node:crypto';
import { createServer } from 'node:http';
import Provider, { interactionPolicy } from 'oidc-provider';

console.info = console.error;
process.stdin.resume().on('end', () => process.exit(0));

const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';
const PATHS = ['/oauth/callback', '/oauth/callback/example'];
const LOOPBACK = ['localhost', '127.0.0.1', '[::1]'].flatMap((host) => PATHS.map((path) => `http://${host}${path}`));
const GATEWAY = {
  application_type: 'native', // any loopback port is allowed in the redirect URI
  grant_types: ['authorization_code', 'refresh_token', DEVICE],
  redirect_uris: LOOPBACK,
};
const CLIENTS = [
  { ...GATEWAY, client_id: 'posthouse-public', token_endpoint_auth_method: 'none' },
  { ...GATEWAY, client_id: 'posthouse-secret', client_secret: 'secret-of-the-tests' },
  {
    ...GATEWAY,
    client_id: 'posthouse-post',
    client_secret: 'secret-of-the-tests',
    token_endpoint_auth_method: 'client_secret_post',
  },
  {
    client_id: 'mail-server',
    client_secret: 'secret-of-the-mail-server',
    grant_types: [],
    redirect_uris: [],
    response_types: [],
  },
];

// What is kept: everything in one map, without the bound that the development adapter has.
const records = new Map();
const people = new Map();
const counts = { requests: {}, refusals: {} };
const faults = { times: 0 };
const lifetime = { seconds: 3600 };

class Memory {
  constructor(model) {
    this.model = model;
  }

  key(id) {
    return `${this.model}:${id}`;
  }

  async find(id) {
    return records.get(this.key(id));
  }

  async upsert(id, payload) {
    records.set(this.key(id), { ...payload });
  }

  async destroy(id) {
    records.delete(this.key(id));
  }

  async consume(id) {
    records.get(this.key(id)).consumed = Math.floor(Date.now() / 1000);
  }

  async findByUid(uid) {
    return this.#first((payload) => payload.uid === uid);
  }

  async findByUserCode(userCode) {
    return this.#first((payload) => payload.userCode === userCode);
  }

  async revokeByGrantId(grantId) {
    for (const [key, payload] of this.#own()) if (payload.grantId === grantId) records.delete(key);
  }

  #first(wanted) {
    return this.#own().find(([, payload]) => wanted(payload))?.[1];
  }

  #own() {
    return [...records].filter(([key]) => key.startsWith(this.key('')));
  }
}

function personFor(address) {
  const id = `person-${createHash('sha256').update(address).digest('hex').slice(0, 16)}`;
  people.set(id, address);
  return id;
}

function findAccount(ctx, id) {
  const address = people.get(id);
  if (!address) return undefined;
  const name = address.split('@')[0];
  return {
    accountId: id,
    claims: () => ({
      sub: id, email: address, email_verified: true, preferred_username: address, name,
    }),
  };
}

const safe = (text) => String(text ?? '').replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const page = (title, body) => `<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">`
  + `<title>${title}</title><h1>${title}</h1>${body}</html>`;

function policy() {
  const prompts = interactionPolicy.base();
  prompts.add(new interactionPolicy.Prompt({ name: 'select_account', requestable: true }), 0);
  return prompts;
}

function configuration() {
  const key = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
  return {
    adapter: Memory,
    clients: CLIENTS,
    jwks: { keys: [{ ...key, kid: 'tests', use: 'sig', alg: 'RS256' }] },
    cookies: { keys: ['cookie-key-of-the-tests'] },
    scopes: ['openid', 'offline_access', 'mail'],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'preferred_username'] },
    clientBasedCORS: () => false,
    extraClientMetadata: { properties: ['mailbox'] },
    pkce: { required: () => true },
    rotateRefreshToken: true,
    findAccount,
    extraTokenClaims: (ctx, token) => {
      const address = token.accountId ? people.get(token.accountId) : ctx.oidc.client.mailbox;
      return { username: address, email: address };
    },
    interactions: { policy: policy(), url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    renderError: (ctx, out) => {
      ctx.type = 'html';
      ctx.body = page('Refused', `<p>${safe(out.error)}: ${safe(out.error_description)}</p>`);
    },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: (ctx, client) => client.clientAuthMethod !== 'none' },
      revocation: { enabled: true, allowedPolicy: (ctx, client, token) => token.clientId === client.clientId },
      deviceFlow: {
        enabled: true,
        userCodeInputSource: (ctx, form, out, error) => {
          ctx.body = page('Enter the code', `<p>${safe(error?.message)}</p>${form}
            <button type="submit" form="op.deviceInputForm">Continue</button>`);
        },
        userCodeConfirmSource: (ctx, form, client, device, code) => {
          ctx.body = page('Is this your device?', `<p>${safe(client.clientId)}: ${safe(code)}</p>${form}
            <button type="submit" form="op.deviceConfirmForm">Continue</button>
            <button type="submit" form="op.deviceConfirmForm" name="abort" value="yes">Refuse</button>`);
        },
        successSource: (ctx) => { ctx.body = page('Signed in', '<p>The device may go on.</p>'); },
      },
    },
    ttl: {
      AccessToken: () => lifetime.seconds,
      AuthorizationCode: 60,
      ClientCredentials: () => lifetime.seconds,
      DeviceCode: 600,
      Grant: 86400,
      IdToken: 3600,
      Interaction: 600,
      RefreshToken: 86400,
      Session: 86400,
    },
  };
}

async function bodyOf(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}

function answer(response, status, type, body) {
  response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(body);
}

const json = (response, value) => answer(response, 200, 'application/json', JSON.stringify(value));

// The pages where a person says who they are and whether they permit it.
async function interact(provider, request, response) {
  const { prompt, params, grantId, session } = await provider.interactionDetails(request, response);
  if (request.method === 'GET') {
    answer(response, 200, 'text/html; charset=utf-8', asks(prompt.name, request.url, params));
    return;
  }
  const form = new URLSearchParams(await bodyOf(request));
  const result = form.get('answer') === 'refuse'
    ? { error: 'access_denied', error_description: 'the person refused' }
    : await permitted(provider, prompt, form, params, grantId, session);
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
}

function asks(prompt, action, params) {
  const who = prompt === 'consent'
    ? `<p>${safe(params.client_id)} asks for: ${safe(params.scope)}</p>`
    : `<label>Address <input name="login" autofocus value="${safe(params.login_hint)}"></label>`;
  return page(prompt === 'consent' ? 'Permit?' : 'Sign in', `<form method="post" action="${safe(action)}">${who}
    <button name="answer" value="permit">Continue</button>
    <button name="answer" value="refuse">Refuse</button></form>`);
}

async function permitted(provider, prompt, form, params, grantId, session) {
  if (prompt.name !== 'consent') {
    return { [prompt.name]: {}, login: { accountId: personFor(form.get('login').toLowerCase()) } };
  }
  const grant = (grantId && await provider.Grant.find(grantId))
    || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  if (prompt.details.missingOIDCClaims) grant.addOIDCClaims(prompt.details.missingOIDCClaims);
  return { consent: { grantId: await grant.save() } };
}

const DOOR = {
  'GET /door': () => ({
    ...counts,
    grants: [...records.keys()].filter((key) => key.startsWith('Grant:')).length,
  }),
  'POST /door/reset': () => {
    records.clear();
    Object.assign(counts, { requests: {}, refusals: {} });
    Object.assign(faults, { times: 0 });
    Object.assign(lifetime, { seconds: 3600 });
    return {};
  },
  'POST /door/revoke': ({ person }) => {
    const account = personFor(person);
    const grants = [...records].filter(([key, { accountId }]) => key.startsWith('Grant:') && accountId === account);
    for (const [key, payload] of records) {
      if (payload.accountId === account && !key.startsWith('Session:')) records.delete(key);
    }
    return { revoked: grants.length };
  },
  'POST /door/client': (client) => {
    records.set(`Client:${client.client_id}`, { redirect_uris: [], response_types: [], ...client });
    return {};
  },
  'POST /door/lifetime': (wanted) => Object.assign(lifetime, wanted),
  'POST /door/fail': (wanted) => Object.assign(faults, { status: undefined, lose: false }, wanted),
};

async function open(door, request, response) {
  const body = await bodyOf(request);
  json(response, door(body ? JSON.parse(body) : {}));
}

function count(kind, name) {
  counts[kind][name] = (counts[kind][name] ?? 0) + 1;
}

// True when the answer to this token request is already decided: by a status, or by never arriving.
function faulty(request, response) {
  if (request.url !== '/token' || request.method !== 'POST' || faults.times < 1) return false;
  faults.times -= 1;
  if (!faults.lose) {
    answer(response, faults.status, 'application/json', JSON.stringify({ error: 'temporarily_unavailable' }));
    return true;
  }
  response.end = () => request.socket.destroy();
  return false;
}

const server = createServer();
server.listen({ fd: Number(process.argv[2]) }, () => {
  const provider = new Provider(`http://127.0.0.1:${server.address().port}`, configuration());
  const ordinary = provider.callback();
  provider.on('grant.success', (ctx) => count('requests', ctx.oidc.params.grant_type));
  provider.on('grant.error', (ctx, error) => {
    count('requests', ctx.oidc.params?.grant_type);
    count('refusals', error.error);
  });
  provider.on('server_error', (ctx, error) => console.error(error));
  server.on('request', (request, response) => {
    const door = DOOR[`${request.method} ${request.url}`];
    const work = door ? open(door, request, response)
      : request.url.startsWith('/interaction/') ? interact(provider, request, response)
        : faulty(request, response) || ordinary(request, response);
    Promise.resolve(work).catch((error) => {
      console.error(error);
      answer(response, 500, 'text/plain', `${error.message}\n`);
    });
  });
});
