// Looks at the status page as people do: with and without JavaScript, on a desktop and a phone, in light and dark, by
// keyboard, and with axe-core's rules. Each thing seen is a line; the first that is not as it should be ends it.
//
// node look.mjs URL MODULES SCREENSHOTS CHROMIUM
// Whoever starts it lets messages flow meanwhile, so that numbers change, has let Redis fail once, and sent a malformed message.

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [url, modules, screenshots, executablePath] = process.argv.slice(2);
const require = createRequire(join(modules, 'package.json'));
const { chromium } = require('playwright-core');
const axe = await readFile(require.resolve('axe-core/axe.min.js'), 'utf8');

const TIMEOUT_MS = 60_000;
const DESKTOP = { width: 1280, height: 900 };
const PHONE = { width: 360, height: 740 };
const seen = (what) => console.log(`seen: ${what}`);

// No background calls of Chromium's own: the page is what is judged.
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];
const profile = await mkdtemp(join(tmpdir(), 'status-page-'));
let context;
const complaints = [];
const requests = [];

/** A window of its own, whose complaints and requests are noted. */
async function open(options) {
  context = await chromium.launchPersistentContext(await mkdtemp(join(profile, 'p')), {
    executablePath, headless: true, args, ...options,
  });
  context.setDefaultTimeout(TIMEOUT_MS);
  const page = context.pages()[0] ?? await context.newPage();
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('request', (request) => requests.push(request.url()));
  await page.goto(url);
  return page;
}

const picture = (page, name) => page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true });
const factOf = (page, name) => page.locator(`dt:text-is("${name}") + dd`).first();
const processed = async (page) => Number((await factOf(page, 'Processed').innerText()).replace(/\D/g, ''));

/** The number that messages make grow has grown. */
async function grows(page, what) {
  const before = await processed(page);
  const deadline = Date.now() + TIMEOUT_MS;
  while (await processed(page) <= before) {
    assert.ok(Date.now() < deadline, `${what}: still ${before}`);
    await page.waitForTimeout(200);
  }
  seen(what);
}

async function hasNoBarriers(page, what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const serious = violations.filter(({ impact }) => ['serious', 'critical'].includes(impact));
  const complaints = serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
  assert.deepEqual(complaints, [], what);
  seen(`${what}: axe-core finds nothing serious (${violations.length} minor: ${violations.map(({ id }) => id)})`);
}

async function withoutJavaScript() {
  const page = await open({ viewport: DESKTOP, javaScriptEnabled: false });
  const text = await page.locator('body').innerText();
  assert.ok(!text.includes('Pause') && !text.includes('Settings'), `parts that need JavaScript, in: ${text}`);
  const link = await page.getByRole('link', { name: 'status as JSON' }).getAttribute('href');
  const status = await context.request.get(new URL(link, page.url()).href);
  assert.equal((await status.json()).state, 'ready');
  seen('without JavaScript: a link to the status as JSON');
  await context.close();
}

async function withJavaScript() {
  const page = await open({ viewport: DESKTOP, colorScheme: 'light', reducedMotion: 'reduce' });
  await page.getByText('2 of 2 alive').waitFor();
  const text = await page.locator('body').innerText();
  for (const part of ['Ready', 'Last 15 minutes', 'Messages processed', 'End-to-end latency, p95', 'In flight', 'Recent errors', 'cannot read a message',
    'connected', 'SERVER_API_KEY', 'Set by the operator; secrets are not shown']) {
    assert.ok(text.includes(part), `${part}, in: ${text}`);
  }
  assert.equal(await page.locator('svg[role=img]').count(), 4);
  for (const drawn of await page.locator('svg[role=img]').all()) assert.match(await drawn.getAttribute('aria-label'), /: now .+, highest .+/);
  await page.waitForFunction(() => document.querySelector('svg[aria-label^="Messages processed"] path')?.getAttribute('d').startsWith('M'));
  seen('with JavaScript: the text and four charts');
  await page.evaluate(() => { globalThis.isTheSamePage = true; });
  const rates = page.getByRole('region', { name: 'Table of rates' });
  await rates.focus();
  await page.locator('summary').click();
  await rates.focus();
  await grows(page, 'with JavaScript: a number changes');
  assert.equal(await page.evaluate(() => globalThis.isTheSamePage), true, 'without reloading the page');
  assert.equal(await rates.evaluate((region) => region === document.activeElement), true, 'the focus stays');
  assert.equal(await page.locator('details').getAttribute('open'), '', 'what was opened stays open');
  assert.equal(await page.evaluate(() => document.getAnimations().length), 0, 'nothing moves');
  seen('with JavaScript: the page, the focus and what was opened stay');
  await page.locator('summary').click();

  await page.getByRole('button', { name: 'Pause' }).click();
  const paused = await processed(page);
  await page.waitForTimeout(7_000);
  assert.equal(await processed(page), paused, 'paused');
  await page.getByRole('button', { name: 'Resume' }).click();
  await grows(page, 'paused it stands still, and then goes on');

  await picture(page, 'desktop-light');
  await hasNoBarriers(page, 'light');
  await page.emulateMedia({ colorScheme: 'dark' });
  const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = ground.match(/\d+/g).reduce((sum, part) => sum + Number(part), 0);
  assert.ok(light < 200, `a dark ground: ${ground}`);
  await picture(page, 'desktop-dark');
  await hasNoBarriers(page, 'dark');

  await page.emulateMedia({ colorScheme: 'light' });
  await keyboard(page);
  assert.deepEqual(complaints, [], 'complaints in the console');
  const outside = requests.filter((request) => !request.startsWith(`${new URL(url).origin}/`) && request !== 'data:,');
  assert.deepEqual(outside, [], 'requests to others');
  seen(`no complaint in the console, and of ${requests.length} requests none to others`);

  // Complaints of the console are wanted from here on.
  await page.route('**/*', (route) => route.abort());
  const note = page.getByRole('status');
  await note.getByText('The service does not answer').waitFor();
  await page.unroute('**/*');
  await note.getByText('The service does not answer').waitFor({ state: 'detached' });
  seen('a service that does not answer is said to, until it answers');
  await context.close();
}

/** Tab reaches all that can be used, in the order of the page, and the focus can be seen. */
async function keyboard(page) {
  await page.reload();
  await page.getByText('2 of 2 alive').waitFor();
  const reached = [];
  for (let step = 0; step < 20; step += 1) {
    await page.keyboard.press('Tab');
    const focus = await page.evaluate(() => {
      const element = document.activeElement;
      if (element === null || element === document.body) return null;
      const name = element.getAttribute('aria-label') ?? element.textContent.trim();
      return { name, outline: getComputedStyle(element).outlineStyle };
    });
    if (focus === null || reached.includes(focus.name)) break;
    assert.notEqual(focus.outline, 'none', `the focus on ${focus.name} cannot be seen`);
    reached.push(focus.name);
  }
  assert.deepEqual(reached, ['Pause', 'Table of rates', 'Settings at their defaults', 'status', 'metrics', 'readyz', 'livez']);
  await page.locator('summary').focus();
  await page.keyboard.press('Enter');
  assert.equal(await page.locator('details').getAttribute('open'), '');
  seen(`by keyboard: ${reached.join(', ')}`);
}

async function onAPhone() {
  const page = await open({ viewport: PHONE, isMobile: true, hasTouch: true, deviceScaleFactor: 2, colorScheme: 'dark' });
  await page.getByText('2 of 2 alive').waitFor();
  await picture(page, 'phone-dark');
  await page.emulateMedia({ colorScheme: 'light' });
  const fits = async () => {
    for (const width of [320, 360]) {
      await page.setViewportSize({ ...PHONE, width });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= width, `${wide} wide on a screen of ${width}`);
    }
  };
  await fits();
  await page.locator('summary').tap();
  await fits();
  await picture(page, 'phone-light');
  await hasNoBarriers(page, 'phone');
  seen('on a phone: no scrolling sideways at 360 and 320 pixels');
  await context.close();
}

try {
  await withoutJavaScript();
  await withJavaScript();
  await onAPhone();
} finally {
  await context?.close().catch(() => {});
  await rm(profile, { recursive: true, force: true, maxRetries: 5 });
}
