// People at an OpenID provider that is not ours, and at the gateway. `run` says where both are.
import assert from 'node:assert/strict';
import { generateKeyPairSync, createHash, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { decodeJwt, importJWK, SignJWT } from 'jose';
import Provider from 'oidc-provider';

const { HUB, ISSUER, CHROMIUM } = process.env;
const SECRET = 'a secret: of ours%';
const EVENT = 'http://schemas.openid.net/event/backchannel-logout';
const PEOPLE = {
  ana: ['other', 'hub-desk'], ben: ['hub-admins'], eve: ['hub-admin'], kim: ['pantry'], max: [],
};

// --- the provider

console.info = () => {}; // its notices

const clock = Date.now;
let off = 0; // seconds
Date.now = () => clock() + off * 1000;

function key(alg) {
  const pair = alg === 'RS256' ? generateKeyPairSync('rsa', { modulusLength: 2048 })
    : generateKeyPairSync('ec', { namedCurve: alg === 'ES256' ? 'P-256' : 'P-384' });
  return { ...pair.privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg, use: 'sig' };
}

let provider; let signing; let alg; let lie = null; const told = [];
function begin(with_) {
  alg = with_;
  signing = key(alg);
  provider = new Provider(ISSUER, {
    clients: [{
      client_id: 'loopgate',
      client_secret: SECRET,
      redirect_uris: [`${HUB}/sign-in/callback`],
      post_logout_redirect_uris: [`${HUB}/`],
      backchannel_logout_uri: `${HUB}/sign-out/back-channel`,
      backchannel_logout_session_required: true,
      id_token_signed_response_alg: alg,
    }, {
      client_id: 'other',
      client_secret: 'other',
      redirect_uris: ['http://127.0.0.1:9/cb'],
      id_token_signed_response_alg: alg,
    }],
    jwks: { keys: [signing, ...(alg === 'RS256' ? [] : [key(alg === 'ES256' ? 'ES384' : 'ES256')])] },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'ES384'] },
    pkce: { required: () => true },
    conformIdTokenClaims: false,
    claims: { openid: ['sub'], profile: ['name', 'roles'] },
    findAccount: (_, id) => ({
      accountId: id, claims: () => ({ sub: id, name: `${id} <b>`, roles: PEOPLE[id] ?? [] }),
    }),
    features: { backchannelLogout: { enabled: true }, devInteractions: { enabled: true } },
    cookies: { keys: ['k'] },
  });
  for (const what of ['backchannel.success', 'backchannel.error']) {
    provider.on(what, (_, error) => told.push(error?.message ?? what));
  }
  // What a provider that is broken, or somebody in its place, answers.
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.path === '/token' && lie && ctx.body?.id_token) ctx.body.id_token = await lie(decodeJwt(ctx.body.id_token));
  });
  // Chromium asks for no fonts.
  provider.use(async (ctx, next) => { await next(); if (ctx.type === 'text/html') ctx.set('content-security-policy', "style-src 'unsafe-inline'"); });
}
const sign = async (claims, header = {}, by = signing) =>
  new SignJWT(claims).setProtectedHeader({ alg: by.alg, kid: by.kid, typ: 'JWT', ...header }).sign(await importJWK(by, by.alg));
const server = createServer((request, response) => provider.callback()(request, response));
await new Promise((done) => { server.listen(new URL(ISSUER).port, 'localhost', done); });

// --- the browser

class Browser {
  jars = new Map();

  async go(url, form, headers = {}) {
    const { origin } = new URL(url);
    const jar = this.jars.get(origin) ?? this.jars.set(origin, new Map()).get(origin);
    const answer = await fetch(url, {
      method: form ? 'POST' : 'GET',
      body: form && new URLSearchParams(form),
      redirect: 'manual',
      headers: { cookie: [...jar].map((pair) => pair.join('=')).join('; '), 'sec-fetch-site': 'cross-site', ...headers },
    });
    for (const line of answer.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
      if (value === '' || /max-age=0|expires=thu, 01 jan 1970/i.test(line)) jar.delete(name); else jar.set(name, value);
    }
    const to = answer.headers.get('location');
    return { status: answer.status, to: to && new URL(to, url).href, text: await answer.text(), url };
  }

  // Follows redirects until this place, or a page.
  async follow(url, until) {
    let seen = { to: url };
    while (seen.to && !(until && seen.to.startsWith(until))) seen = await this.go(seen.to);
    return seen;
  }

  // From our page to the address that the provider sends the browser back to; nothing was asked there yet.
  async away(who, query = '') {
    const sent = await this.go(`${HUB}/sign-in/provider${query}`);
    assert.equal(sent.status, 303, sent.text);
    return this.through(sent.to, who);
  }

  async through(address, who, back = `${HUB}/sign-in/callback`) {
    let seen = await this.follow(address, back);
    for (let step = 0; !seen.to && step < 3; step += 1) {
      const action = /action="([^"]+)"/.exec(seen.text)?.[1];
      assert.ok(action, `no form: ${seen.status} ${seen.text}`);
      if (who === null) { seen = await this.follow(`${seen.url}/abort`, back); continue; }
      const prompt = /name="prompt" value="(\w+)"/.exec(seen.text)[1];
      const sent = await this.go(action, { prompt, login: who, password: 'x' });
      seen = await this.follow(sent.to, back);
    }
    assert.ok(seen.to?.startsWith(back), JSON.stringify(seen));
    return seen.to;
  }

  async signIn(who, query) { return this.go(await this.away(who, query)); }
  async home() { return (await this.go(`${HUB}/`)).text; }
  get session() { return this.jars.get(HUB)?.get('loopgate'); }
}

const said = [];
async function it(what, test) {
  try { await test(); said.push(true); console.log(`  ok  ${what}`); } catch (error) {
    said.push(false); console.log(`  NOT ${what}: ${error.message}`);
  }
}
async function refused(what, seen, browser) {
  assert.equal(seen.status, 403, `${what}: ${seen.status} ${seen.text}`);
  assert.equal(browser.session, undefined, what);
}

for (const one of ['RS256', 'ES256', 'ES384']) {
  begin(one);
  if (one !== 'RS256') await new Promise((done) => { setTimeout(done, 61_000); }); // the gateway asks again
  await it(`a person signs in, and gets the first role that fits (${one})`, async () => {
    const ana = new Browser();
    const back = await ana.signIn('ana', '?return_to=/fhir/metadata');
    assert.deepEqual([back.status, back.to], [303, `${HUB}/fhir/metadata`], back.text);
    const page = await ana.home();
    assert.match(page, /Coordinator/);
    assert.match(page, /ana &lt;b&gt;/);
  });
  if (one === 'RS256') await matrix();
}

async function matrix() {
  await it('staff get their partner, an administrator the house, others nothing', async () => {
    for (const [who, role] of [['kim', 'Staff of Pantry'], ['ben', 'Administrator']]) {
      const browser = new Browser();
      assert.equal((await browser.signIn(who)).status, 303, who);
      assert.match(await browser.home(), new RegExp(role));
    }
    for (const who of ['eve', 'max']) {
      const browser = new Browser();
      const seen = await browser.signIn(who);
      await refused(who, seen, browser);
      assert.match(seen.text, /no role here/);
    }
  });
  await it('who says no at the provider is not let in, and told so', async () => {
    const browser = new Browser();
    const seen = await browser.signIn(null);
    await refused('denied', seen, browser);
    assert.match(seen.text, /did not let you in/);
  });
  await it('state: another browser, another sign-in, a second time', async () => {
    const [ana, eve] = [new Browser(), new Browser()];
    const back = await ana.away('ana');
    await refused('a browser that never went', await eve.go(back), eve);
    await eve.away('ben');
    await refused("another browser's sign-in", await eve.go(back), eve);
    const url = new URL(back);
    url.searchParams.set('state', 'x'.repeat(64));
    await refused('another state', await ana.go(url.href), ana);
    assert.equal((await ana.go(back)).status, 303, 'its own');
    const again = await ana.go(back);
    assert.equal(again.status, 403, 'a second time');
  });
  await it("PKCE: another sign-in's code is worth nothing", async () => {
    const [ana, eve] = [new Browser(), new Browser()];
    const [hers, theirs] = [new URL(await ana.away('ana')), new URL(await eve.away('ben'))];
    hers.searchParams.set('code', theirs.searchParams.get('code'));
    await refused('a code that was planted', await ana.go(hers.href), ana);
  });
  await it("another client's code, another issuer's answer", async () => {
    const ana = new Browser();
    const verifier = 'v'.repeat(43);
    const challenge = createHash('sha256').update(verifier).digest('base64url');
    const asked = new URLSearchParams({
      client_id: 'other', response_type: 'code', scope: 'openid profile', redirect_uri: 'http://127.0.0.1:9/cb', code_challenge: challenge, code_challenge_method: 'S256',
    });
    const code = new URL(await ana.through(`${ISSUER}/auth?${asked}`, 'ana', 'http://127.0.0.1:9/cb')).searchParams.get('code');
    const back = new URL(await ana.away('ana'));
    back.searchParams.set('code', code);
    await refused("another client's code", await ana.go(back.href), ana);
    const mixed = new URL(await ana.away('ana'));
    mixed.searchParams.set('iss', 'https://evil.test');
    await refused('iss', await ana.go(mixed.href), ana);
    const silent = new URL(await ana.away('ana'));
    silent.searchParams.delete('iss');
    await refused('no iss, though the provider always says it', await ana.go(silent.href), ana);
  });
  await it('ID tokens that are wrong let nobody in', async () => {
    const strange = { ...key('RS256'), kid: signing.kid };
    const b64 = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const now = () => Math.floor(clock() / 1000);
    for (const [what, made] of Object.entries({
      'another audience': (claims) => sign({ ...claims, aud: 'other' }),
      'another audience beside us': (claims) => sign({ ...claims, aud: ['loopgate', 'other'] }),
      'another authorized party': (claims) => sign({ ...claims, azp: 'other' }),
      'another nonce': (claims) => sign({ ...claims, nonce: 'x' }),
      'no nonce': ({ nonce, ...claims }) => sign(claims),
      'another issuer': (claims) => sign({ ...claims, iss: 'https://evil.test' }),
      expired: (claims) => sign({ ...claims, exp: now() - 90 }),
      'of the future': (claims) => sign({ ...claims, iat: now() + 90 }),
      'of nobody': ({ sub, ...claims }) => sign(claims),
      "a stranger's key by our provider's name": (claims) => sign(claims, {}, strange),
      'alg none': (claims) => `${b64({ alg: 'none', kid: signing.kid })}.${b64(claims)}.`,
      'our secret as the key': (claims) => new SignJWT(claims).setProtectedHeader({ alg: 'HS256' }).sign(Buffer.from(SECRET)),
      'a logout token': (claims) => sign({ ...claims, nonce: undefined, events: { [EVENT]: {} } }, { typ: 'logout+jwt' }),
    })) {
      const browser = new Browser();
      lie = made;
      const seen = await browser.signIn('ben');
      lie = null;
      await refused(what, seen, browser);
    }
  });
  await it("the provider's clock: half a minute off is forgiven, more is not", async () => {
    for (const [seconds, status] of [[30, 303], [-30, 303], [120, 403], [-7200, 403]]) {
      off = seconds;
      const seen = await new Browser().signIn('ana');
      off = 0;
      assert.equal(seen.status, status, `${seconds}: ${seen.text}`);
    }
  });
  await it('signing out here ends the session here, and shows the way to the provider', async () => {
    const ana = new Browser();
    await ana.signIn('ana');
    const before = ana.session;
    const token = /name="token" value="(\w+)"/.exec(await ana.home())[1];
    assert.equal((await ana.go(`${HUB}/sign-out`, { token })).status, 403, 'sent by another page');
    const out = await ana.go(`${HUB}/sign-out`, { token }, { origin: HUB, 'sec-fetch-site': 'same-origin' });
    assert.equal(out.status, 200, out.text);
    ana.jars.get(HUB).set('loopgate', before);
    assert.match(await ana.home(), /Welcome/);
    const link = /href="([^"]*\/session\/end[^"]*)"/.exec(out.text)[1].replaceAll('&amp;', '&');
    const ask = await ana.follow(link);
    const xsrf = /name="xsrf" value="([^"]+)"/.exec(ask.text)[1];
    const done = await ana.go(`${ISSUER}/session/end/confirm`, { xsrf, logout: 'yes' });
    assert.equal(done.to, `${HUB}/`);
  });
  await it('signing out at the provider ends the sessions here (back-channel logout)', async () => {
    const [ana, elsewhere, ben] = [new Browser(), new Browser(), new Browser()];
    for (const [browser, who] of [[ana, 'ana'], [elsewhere, 'ana'], [ben, 'ben']]) await browser.signIn(who);
    const ask = await ana.go(`${ISSUER}/session/end?client_id=loopgate`);
    const xsrf = /name="xsrf" value="([^"]+)"/.exec(ask.text)[1];
    told.length = 0;
    await ana.go(`${ISSUER}/session/end/confirm`, { xsrf, logout: 'yes' });
    for (let wait = 0; told.length === 0 && wait < 50; wait += 1) await new Promise((done) => { setTimeout(done, 100); });
    assert.deepEqual(told, ['backchannel.success']);
    assert.match(await ana.home(), /Welcome/, 'that session');
    assert.match(await elsewhere.home(), /Coordinator/, 'not her other one');
    assert.match(await ben.home(), /Administrator/, 'nobody else');
  });
  await it('logout tokens that are wrong end nothing', async () => {
    const ana = new Browser();
    await ana.signIn('ana');
    const now = Math.floor(clock() / 1000);
    const whole = { iss: ISSUER, aud: 'loopgate', sub: 'ana', iat: now, exp: now + 120, jti: randomUUID(), events: { [EVENT]: {} } };
    const { sub, ...nobody } = whole; const { events, ...none } = whole;
    const post = async (token) => (await ana.go(`${HUB}/sign-out/back-channel`, { logout_token: await token })).status;
    for (const token of [sign({ ...whole, aud: 'other' }), sign({ ...whole, iss: 'x' }), sign({ ...whole, nonce: 'n' }), sign({ ...whole, iat: now + 90 }),
      sign({ ...whole, exp: now - 90 }), sign(nobody), sign(none), sign(whole, {}, { ...key('RS256'), kid: signing.kid }), sign(whole, { typ: 'at+jwt' }), 'x']) {
      assert.equal(await post(token), 400);
    }
    assert.match(await ana.home(), /Coordinator/);
    const good = await sign(whole, { typ: 'logout+jwt' });
    assert.equal(await post(good), 200);
    assert.match(await ana.home(), /Welcome/);
    assert.equal(await post(good), 400, 'once');
  });
  if (CHROMIUM) {
    await it('Chromium signs in and out', async () => {
      const { launch } = await import('puppeteer-core');
      const chromium = await launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
      try {
        const page = await chromium.newPage();
        const press = async (selector) => { await Promise.all([page.waitForNavigation(), page.click(selector)]); };
        await page.goto(`${HUB}/sign-in`);
        await press('a.button');
        await page.type('[name=login]', 'ana');
        await page.type('[name=password]', 'x');
        await press('button[type=submit]');
        if (page.url().startsWith(ISSUER)) await press('button[type=submit]');
        assert.match(await page.content(), /Coordinator/);
        assert.equal(page.url(), `${HUB}/`);
        await press('form button');
        assert.match(await page.content(), /signed out/i);
        await press('a[href*="/session/end"]');
        await press('button[value=yes]');
        assert.equal(page.url(), `${HUB}/`);
        assert.match(await page.content(), /Welcome/);
      } finally { await chromium.close(); }
    });
  }
}

server.close();
server.closeAllConnections();
process.exit(said.every(Boolean) ? 0 : 1);
