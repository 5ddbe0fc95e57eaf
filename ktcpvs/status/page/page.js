// Looks at the daemon every second or two and draws what has changed. Text from outside becomes text nodes, never HTML.
"use strict";

const EVERY = 1000; // milliseconds between two looks
const PATIENCE = 5000; // milliseconds until a look that is not answered counts as failed
const KEPT = 120; // looks that the plots show
const SHOWN = 200; // the most servers of one service, and services, that are drawn
const SVG = "http://www.w3.org/2000/svg";

const past = new Map(); // what is plotted -> its last values
let before = null;
let failures = 0;
let heard = Date.now();

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function short(number) {
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (number >= size) return (number / (letter === "k" ? 1e3 : size)).toFixed(1) + " " + letter;
  }
  return number >= 100 || Number.isInteger(number) ? Math.round(number).toString() : number.toFixed(1);
}

function bytes(number) {
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (number >= size) return (number / size).toFixed(1) + " " + unit;
  }
  return Math.round(number) + " B";
}

function duration(seconds) {
  if (seconds === null) return "–";
  return seconds >= 1 ? `${seconds} s` : `${+(seconds * 1000).toPrecision(3)} ms`;
}

function span(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

// The bound that `share` of the requests counted in these buckets did not exceed; null: there were none.
function within(buckets, bounds, share) {
  const all = buckets.reduce((sum, one) => sum + one, 0);
  let seen = 0;
  for (let place = 0; all > 0 && place < buckets.length; place++) {
    seen += buckets[place];
    if (seen >= all * share) return bounds[Math.min(place, bounds.length - 1)];
  }
  return null;
}

// What a counter gained in a second; one that began anew counts as 0.
function gain(now, then, seconds) {
  return then === undefined || seconds <= 0 ? 0 : Math.max(0, now - then) / seconds;
}

function gained(now, then) {
  return then ? now.map((count, place) => Math.max(0, count - then[place])) : now.map(() => 0);
}

function remember(key, value) {
  const values = past.get(key) || [];
  values.push(value);
  if (values.length > KEPT) values.shift();
  past.set(key, values);
}

function plot(key, label, write, second) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${KEPT - 1} 40`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const lines = second ? [[key, "first"], [second, "second"]] : [[key, "first"]];
  const top = Math.max(...lines.flatMap(([one]) => past.get(one) || []), 1e-9);
  const caption = element("b");
  for (const [one, style] of lines) {
    const values = past.get(one) || [];
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("class", style);
    const points = values.map((value, place) => `${KEPT - values.length + place},${(39 - 37 * (value || 0) / top).toFixed(2)}`);
    line.setAttribute("points", points.join(" "));
    svg.append(line);
    const last = values.length ? values[values.length - 1] : null;
    caption.append(element("b", { class: style }, write(last)), style === "first" && second ? " · " : "");
  }
  return element("figure", {}, element("figcaption", {}, label, caption), svg);
}

function row(cells) {
  return element("tr", {}, ...cells.map(([label, value]) => element("td", label ? { "data-label": label } : {}, value)));
}

function health(server, now) {
  const known = server.health;
  const title = known.since ? `since ${span(now - known.since)}: ${known.reason}` : "";
  return element("span", { class: `state ${known.state}`, title }, known.state);
}

function measured(told, stats, then, seconds) {
  const rates = gained(stats.buckets, then && then.buckets);
  return {
    rate: gain(stats.total, then && then.total, seconds),
    in: gain(stats.bytes_in, then && then.bytes_in, seconds),
    out: gain(stats.bytes_out, then && then.bytes_out, seconds),
    errors: gain(stats.failures + stats.answers["5xx"], then && then.failures + then.answers["5xx"], seconds),
    buckets: rates,
    slow: within(rates, told.buckets, 0.99),
  };
}

function serverRow(told, name, state, server, now) {
  const stats = server.stats;
  return row([
    ["", name], ["state", state], ["weight", server.weight === undefined ? "–" : String(server.weight)],
    ["active", String(stats.active)], ["per second", short(now.rate)], ["in", `${bytes(now.in)}/s`],
    ["out", `${bytes(now.out)}/s`], ["99 % within", duration(now.slow)],
    ["errors", short(stats.failures + stats.answers["5xx"])], ["retries", short(stats.retries)],
  ]);
}

function service(told, one, then, seconds) {
  const ident = one.ident;
  const known = new Map((then ? then.servers : []).map((server) => [server.address, server.stats]));
  const servers = one.servers.map((server) => measured(told, server.stats, known.get(server.address), seconds));
  const buckets = told.buckets.concat([0]).map((_, place) => servers.reduce((sum, now) => sum + now.buckets[place], 0));
  const sum = (name) => servers.reduce((all, now) => all + now[name], 0);
  remember(`${ident} rate`, sum("rate"));
  remember(`${ident} errors`, sum("errors"));
  remember(`${ident} in`, gain(one.stats.bytes_in, then && then.stats.bytes_in, seconds));
  remember(`${ident} out`, gain(one.stats.bytes_out, then && then.stats.bytes_out, seconds));
  remember(`${ident} half`, within(buckets, told.buckets, 0.5));
  remember(`${ident} slow`, within(buckets, told.buckets, 0.99));
  remember(`${ident} active`, one.stats.active);
  remember(`${ident} queued`, one.stats.queued);
  const state = one.running ? "running" : "stopped";
  const relay = one.stats.relay ? `, relay ${one.stats.relay.in_use}` : "";
  const refused = Object.entries(one.stats.refusals).map(([code, count]) => `${code}: ${short(count)}`).join(", ");
  const headings = ["Server", "State", "Weight", "Active", "Per second", "In", "Out", "99 % within", "Errors", "Retries"];
  const body = element("tbody", {}, ...one.servers.slice(0, SHOWN).map((server, place) =>
    serverRow(told, server.address, health(server, told.time), server, servers[place])));
  if (one.redirect) {
    const now = measured(told, one.redirect.stats, then && then.redirect && then.redirect.stats, seconds);
    body.append(serverRow(told, one.redirect.address, "redirect", one.redirect, now));
  }
  const made = element("section", {},
    element("div", { class: "title" },
      element("h2", {}, ident), element("span", { class: `state ${state}` }, state),
      element("span", { class: "faint" }, `${one.listen} · ${one.scheduler}${relay}${refused ? ` · refused ${refused}` : ""}`)),
    element("div", { class: "plots" },
      plot(`${ident} rate`, "per second · errors", short, `${ident} errors`),
      plot(`${ident} half`, "50 % · 99 % within", duration, `${ident} slow`),
      plot(`${ident} in`, "in · out", (value) => `${bytes(value)}/s`, `${ident} out`),
      plot(`${ident} active`, "clients · waiting", short, `${ident} queued`)),
    element("table", {}, element("thead", {}, element("tr", {}, ...headings.map((text) => element("th", {}, text)))), body));
  if (one.servers.length > SHOWN) made.append(element("p", { class: "faint" }, `and ${one.servers.length - SHOWN} more`));
  if (one.rules.length) {
    const open = document.getElementById(`rules ${ident}`);
    const rules = element("details", { id: `rules ${ident}` }, element("summary", {}, `${one.rules.length} rules`),
      element("table", {}, element("tbody", {}, ...one.rules.slice(0, SHOWN).map((rule) =>
        element("tr", {}, element("td", {}, element("code", {}, rule.pattern)), element("td", {}, rule.servers.join(", ")))))));
    rules.open = Boolean(open && open.open);
    made.append(rules);
  }
  return made;
}

function draw(told) {
  const seconds = before ? told.time - before.time : 0;
  const known = new Map((before ? before.services : []).map((one) => [one.ident, one]));
  const shown = told.services.slice(0, SHOWN);
  document.getElementById("services").replaceChildren(...shown.map((one) => service(told, one, known.get(one.ident), seconds)));
  const bad = told.services.flatMap((one) => one.servers).filter((server) => ["down", "ejected"].includes(server.health.state));
  document.title = (bad.length ? `(${bad.length} down) ` : "") + "ktcpvs";
  const more = told.services.length > SHOWN ? `, of which ${SHOWN} are shown` : "";
  document.getElementById("about").textContent =
    `version ${told.version} · up ${span(told.time - told.started)} · ${told.services.length} services${more}`;
  document.getElementById("processes").textContent = told.processes.map((process) => {
    const then = before && before.processes.find((one) => one.name === process.name);
    return `${process.name}: ${Math.round(100 * gain(process.cpu, then ? then.cpu : undefined, seconds))} % CPU, ${bytes(process.memory)}`;
  }).join(" · ");
  for (const key of past.keys()) {
    if (!told.services.some((one) => key.startsWith(`${one.ident} `))) past.delete(key);
  }
  before = told;
}

function warn(text) {
  const alert = document.getElementById("alert");
  alert.textContent = text;
  alert.hidden = !text;
  document.body.classList.toggle("gone", Boolean(text));
}

async function look() {
  try {
    const answer = await fetch("api/v1/status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    const told = await answer.json();
    if (!before || told.time > before.time) draw(told);
    failures = 0;
    heard = Date.now();
    warn("");
  } catch (error) {
    failures += 1;
    if (failures > 1) warn(`The daemon does not answer (${error.message}); these numbers are ${span((Date.now() - heard) / 1000)} old.`);
  }
  setTimeout(look, EVERY);
}

look();
