// Fetches the status every second and brings the page up to date.

import { setAttribute, setHidden, setText } from "./dom.js";
import { span } from "./format.js";
import { measureService } from "./measure.js";
import { CRITICAL, Panels } from "./panels.js";
import { PERIOD } from "./plots.js";
import { Card, anchor, searchText } from "./services.js";

const UPDATE_INTERVAL = 1000; // milliseconds between two updates
const CALM_INTERVAL = 5000; // milliseconds, where the system is set to reduced motion
const FETCH_TIMEOUT = 5000; // milliseconds
const RATE_WINDOW = 5; // seconds over which rates and latencies are measured
const ERROR_WINDOW = 30; // seconds over which the share of errors is measured
const MAX_ERROR_SHARE = 0.05; // of the requests of that time: more is trouble
const MIN_REQUESTS = 20; // in that time, for their share of errors to say something
const MAX_CARDS = 200; // the most services that are shown at once
const MAX_OPEN = 6; // with up to this number of services, all are open at first, except on a telephone
const CARDS_PER_TURN = 10; // new cards that are made before the browser may draw

const panels = new Panels();
const cards = new Map(); // ident -> Card
const byElement = new WeakMap(); // element of a card -> Card
const samples = new Map(); // ident -> what was measured, the oldest first
const opened = new Map(); // ident -> whether a person has opened or closed it
const latest = new Map(); // ident -> {text, badness}
const updates = []; // the data of the last updates, the oldest first
let current = null; // the data of the last update, and what was measured
let numbers = 0;
let failures = 0;
let lastSuccess = Date.now();
let isPaused = false;
let isFirst = true;
let wanted = "";
let isMaking = false;
const narrow = window.matchMedia("(max-width: 40rem)"); // a telephone
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const card = byElement.get(entry.target);
    if (card) card.see(entry.isIntersecting);
  }
}, { rootMargin: "200px" });

function by(id) {
  return document.getElementById(id);
}

// The data from which rates are measured: the oldest within the window, or the one before; null: there is none.
function before(time) {
  return updates.find((one) => time - one.time <= RATE_WINDOW + 0.5) || updates[updates.length - 1] || null;
}

function remember(ident, sample) {
  const kept = samples.get(ident) || [];
  kept.push(sample);
  while (kept[0].time < sample.time - PERIOD - 2) kept.shift();
  samples.set(ident, kept);
  return kept;
}

// The trouble that an error rate is, or null.
function errorTrouble(ident, kept, isRequests) {
  const last = kept[kept.length - 1];
  const first = kept.find((sample) => sample.time >= last.time - ERROR_WINDOW);
  const number = last.total - first.total;
  const errors = last.allErrors - first.allErrors;
  if (number < MIN_REQUESTS || errors <= number * MAX_ERROR_SHARE) return null;
  const share = Math.min(100, Math.round((100 * errors) / number));
  const what = isRequests ? "requests" : "connections";
  const text = `${share} % of the ${what} of the last ${Math.round(last.time - first.time)} s have failed`;
  return { kind: "errors", severity: "warning", service: ident, server: null, node: null, since: null, text };
}

function draw(data) {
  const then = before(data.time);
  const seconds = then ? data.time - then.time : 0;
  const known = new Map((then ? then.services : []).map((one) => [one.ident, one]));
  const measured = new Map();
  const found = [];
  for (const one of data.services) {
    const now = measureService(one, known.get(one.ident), seconds, data.buckets);
    measured.set(one.ident, now);
    const kept = remember(one.ident, {
      time: data.time, active: now.active, rate: now.rate, errors: now.errors, half: now.half, slow: now.slow,
      in: now.in, out: now.out, total: now.total, allErrors: now.allErrors,
    });
    const trouble = errorTrouble(one.ident, kept, now.isRequests);
    if (trouble) found.push(trouble);
  }
  const rows = [...data.trouble, ...found];
  const order = (row) => (row.kind === "trial" ? 0 : row.severity === CRITICAL ? 1 : 2);
  rows.sort((one, other) => order(one) - order(other));
  const critical = panels.trouble.draw(rows, data.trouble_left_out, data);
  const bad = new Map();
  for (const row of rows) if (row.service !== null && bad.get(row.service) !== CRITICAL) bad.set(row.service, row.severity);
  const names = new Set(measured.keys());
  for (const key of samples.keys()) if (!names.has(key)) samples.delete(key);
  latest.clear();
  for (const one of data.services) latest.set(one.ident, { text: searchText(one), badness: bad.get(one.ident) || "" });
  panels.drawTotals([...measured.values()]);
  panels.drawNodes(data);
  panels.drawCertificates(data);
  panels.drawProcesses(data, then);
  drawHead(data, critical, rows.length + data.trouble_left_out);
  current = { data, measured };
  updates.push(data);
  while (updates.length > 1 && updates[0].time < data.time - RATE_WINDOW - 1) updates.shift();
  setHidden(by("main"), false);
  arrange();
  if (isFirst) {
    isFirst = false;
    goToHash();
  }
}

function drawHead(data, critical, all) {
  const node = data.cluster ? ` node ${data.cluster.node}` : "";
  setText(by("title"), `ktcpvs${node}`);
  const title = `${all ? `(${all}) ` : ""}ktcpvs${node}`;
  if (document.title !== title) document.title = title;
  const number = data.services.length;
  setText(by("about"), `version ${data.version} · up ${span(data.time - data.started)} · ${number} ${number === 1 ? "service" : "services"}`);
  const colour = critical ? "%23d32f2f" : all ? "%23e08700" : "%232e9e55";
  setAttribute(by("icon"), "href", `data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><circle cx='8' cy='8' r='7' fill='${colour}'/></svg>`);
}

// Whether the search wants a service.
function isWanted(ident) {
  const { text, badness } = latest.get(ident);
  return (!by("only-trouble").checked || badness) && wanted.split(" ").every((word) => text.includes(word));
}

// Show the cards of the services that are wanted, in the order of the table, and bring those that are visible up to date.
function arrange() {
  if (!current) return;
  const { data, measured } = current;
  const matching = data.services.filter((one) => isWanted(one.ident));
  const shown = new Set(matching.slice(0, MAX_CARDS).map((one) => one.ident));
  for (const [ident, card] of cards) {
    if (!latest.has(ident)) {
      watcher.unobserve(card.element);
      card.element.remove();
      cards.delete(ident);
      opened.delete(ident);
    } else {
      setHidden(card.element, !shown.has(ident));
    }
  }
  let place = null; // the card before
  let made = 0;
  for (const one of matching.slice(0, MAX_CARDS)) {
    let card = cards.get(one.ident);
    if (!card) {
      if (made === CARDS_PER_TURN) {
        continueLater();
        break;
      }
      made += 1;
      card = makeCard(one, data.services.length);
    }
    const expected = place ? place.nextElementSibling : by("cards").firstElementChild;
    if (card.element !== expected && !isBehind(place, card.element)) by("cards").insertBefore(card.element, expected);
    place = card.element;
    card.update(one, measured.get(one.ident), samples.get(one.ident), data, latest.get(one.ident).badness);
  }
  setText(by("found"), told(matching.length, data.services.length));
}

// Whether only hidden cards stand between two cards.
function isBehind(place, card) {
  let next = place ? place.nextElementSibling : by("cards").firstElementChild;
  while (next && next.hidden) next = next.nextElementSibling;
  return next === card;
}

function told(matching, all) {
  if (matching > MAX_CARDS) return `the first ${MAX_CARDS} of ${matching}: search for others`;
  return matching === all ? "" : `${matching} of ${all}`;
}

function makeCard(one, all) {
  const { ident } = one;
  numbers += 1;
  const card = new Card(ident, numbers, (toggled) => opened.set(ident, toggled.isOpen));
  cards.set(ident, card);
  byElement.set(card.element, card);
  card.open(opened.has(ident) ? opened.get(ident) : all <= MAX_OPEN && !narrow.matches && one.running && one.here);
  watcher.observe(card.element);
  return card;
}

function continueLater() {
  if (isMaking) return;
  isMaking = true;
  setTimeout(() => {
    isMaking = false;
    arrange();
  });
}

function openAll(isOpen) {
  for (const card of cards.values()) {
    if (card.element.hidden) continue;
    opened.set(card.ident, isOpen);
    card.open(isOpen);
  }
}

// Go to the service that the address names behind "#", and open it.
function goToHash() {
  const ident = [...latest.keys()].find((one) => `#${anchor(one)}` === location.hash);
  if (ident === undefined) return;
  if (!isWanted(ident) || !cards.has(ident)) {
    by("query").value = ident;
    by("only-trouble").checked = false;
    search();
  }
  const card = cards.get(ident);
  if (!card) return;
  opened.set(ident, true);
  card.see(true);
  card.open(true);
  card.element.scrollIntoView({ block: "start" });
  card.button.focus({ preventScroll: true });
}

function search() {
  wanted = by("query").value.trim().toLowerCase().replace(/\s+/g, " ");
  arrange();
}

function warn(text) {
  const alert = by("alert");
  if (alert.textContent !== text) alert.textContent = text;
  setHidden(alert, !text);
  document.body.classList.toggle("gone", Boolean(text));
}

function tellAge() {
  const age = (Date.now() - lastSuccess) / 1000;
  setText(by("age"), isPaused ? `paused, ${span(age)} old` : age > 3 ? `${span(age)} old` : "live");
}

async function update() {
  try {
    const response = await fetch("api/v1/status", { cache: "no-store", signal: AbortSignal.timeout(FETCH_TIMEOUT) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const data = await response.json();
    const last = updates[updates.length - 1];
    if (!isPaused && (!last || data.time > last.time)) draw(data);
    failures = 0;
    if (!isPaused) lastSuccess = Date.now();
    warn("");
  } catch (error) {
    failures += 1;
    if (failures > 1) warn(`The daemon does not respond (${error.message}); the numbers below are ${span((Date.now() - lastSuccess) / 1000)} old.`);
  }
  tellAge();
  setTimeout(update, calm.matches ? CALM_INTERVAL : UPDATE_INTERVAL);
}

by("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  by("pause").setAttribute("aria-pressed", String(isPaused));
  tellAge();
});
by("query").addEventListener("input", search);
by("only-trouble").addEventListener("change", search);
by("open-all").addEventListener("click", () => openAll(true));
by("close-all").addEventListener("click", () => openAll(false));
window.addEventListener("hashchange", goToHash);
update();
