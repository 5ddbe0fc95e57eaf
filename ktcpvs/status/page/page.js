// Fetches the status every second and redraws the page. Foreign text becomes text nodes, never HTML.
"use strict";

const UPDATE_INTERVAL = 1000; // milliseconds between two updates
const FETCH_TIMEOUT = 5000; // milliseconds
const MAX_SAMPLES = 120; // updates that the plots show
const MAX_ROWS = 200; // the most services, and servers of one service, that are drawn
const BACKUP = 100; // the priority of backup servers
const SVG = "http://www.w3.org/2000/svg";

const samples = new Map(); // name of a plot -> its last values
let previous = null; // the data of the last update
let failures = 0;
let lastSuccess = Date.now();

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

// The upper bound of the latency of this share of the requests; null: there were none.
function within(buckets, bounds, share) {
  const all = buckets.reduce((sum, one) => sum + one, 0);
  let seen = 0;
  for (let place = 0; all > 0 && place < buckets.length; place++) {
    seen += buckets[place];
    if (seen >= all * share) return bounds[Math.min(place, bounds.length - 1)];
  }
  return null;
}

// The increase of a counter per second; 0 for a counter that was reset.
function gain(now, then, seconds) {
  return then === undefined || seconds <= 0 ? 0 : Math.max(0, now - then) / seconds;
}

function gained(now, then) {
  return then ? now.map((count, place) => Math.max(0, count - then[place])) : now.map(() => 0);
}

function remember(key, value) {
  const values = samples.get(key) || [];
  values.push(value);
  if (values.length > MAX_SAMPLES) values.shift();
  samples.set(key, values);
}

function plot(key, label, write, second) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${MAX_SAMPLES - 1} 40`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const lines = second ? [[key, "first"], [second, "second"]] : [[key, "first"]];
  const top = Math.max(...lines.flatMap(([one]) => samples.get(one) || []), 1e-9);
  const caption = element("b");
  for (const [one, style] of lines) {
    const values = samples.get(one) || [];
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("class", style);
    const points = values.map((value, place) => `${MAX_SAMPLES - values.length + place},${(39 - 37 * (value || 0) / top).toFixed(2)}`);
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

function measured(data, stats, then, seconds) {
  const rates = gained(stats.buckets, then && then.buckets);
  return {
    rate: gain(stats.total, then && then.total, seconds),
    in: gain(stats.bytes_in, then && then.bytes_in, seconds),
    out: gain(stats.bytes_out, then && then.bytes_out, seconds),
    errors: gain(stats.failures + stats.answers["5xx"], then && then.failures + then.answers["5xx"], seconds),
    buckets: rates,
    slow: within(rates, data.buckets, 0.99),
  };
}

function weight(server) {
  if (server.weight === undefined) return "–";
  const priority = server.priority === BACKUP ? ", backup" : server.priority ? `, priority ${server.priority}` : "";
  return `${server.weight}${priority}`;
}

function serverRow(data, name, state, server, now) {
  const stats = server.stats;
  return row([
    ["", name], ["state", state], ["weight", weight(server)],
    ["active", String(stats.active)], ["per second", short(now.rate)], ["in", `${bytes(now.in)}/s`],
    ["out", `${bytes(now.out)}/s`], ["99 % within", duration(now.slow)],
    ["errors", short(stats.failures + stats.answers["5xx"])], ["retries", short(stats.retries)],
  ]);
}

function listeners(one) {
  return one.listeners.map((listener) => listener.listen + (listener.tls ? " tls" : "") + (listener.on ? ` on ${listener.on}` : "")).join(", ");
}

function service(data, one, then, seconds) {
  const ident = one.ident;
  const known = new Map((then ? then.servers : []).map((server) => [server.address, server.stats]));
  const servers = one.servers.map((server) => measured(data, server.stats, known.get(server.address), seconds));
  const buckets = data.buckets.concat([0]).map((_, place) => servers.reduce((sum, now) => sum + now.buckets[place], 0));
  const sum = (name) => servers.reduce((all, now) => all + now[name], 0);
  remember(`${ident} rate`, sum("rate"));
  remember(`${ident} errors`, sum("errors"));
  remember(`${ident} in`, gain(one.stats.bytes_in, then && then.stats.bytes_in, seconds));
  remember(`${ident} out`, gain(one.stats.bytes_out, then && then.stats.bytes_out, seconds));
  remember(`${ident} half`, within(buckets, data.buckets, 0.5));
  remember(`${ident} slow`, within(buckets, data.buckets, 0.99));
  remember(`${ident} active`, one.stats.active);
  remember(`${ident} queued`, one.stats.queued);
  const state = !one.running ? "stopped" : one.here ? "running" : "elsewhere";
  const relay = one.stats.relay ? `, relay ${one.stats.relay.in_use}` : "";
  const refused = Object.entries(one.stats.refusals).map(([code, count]) => `${code}: ${short(count)}`).join(", ");
  const headings = ["Server", "State", "Weight", "Active", "Per second", "In", "Out", "99 % within", "Errors", "Retries"];
  const body = element("tbody", {}, ...one.servers.slice(0, MAX_ROWS).map((server, place) =>
    serverRow(data, server.address, health(server, data.time), server, servers[place])));
  if (one.redirect) {
    const now = measured(data, one.redirect.stats, then && then.redirect && then.redirect.stats, seconds);
    body.append(serverRow(data, one.redirect.address, "redirect", one.redirect, now));
  }
  const made = element("section", {},
    element("div", { class: "title" },
      element("h2", {}, ident), element("span", { class: `state ${state}` }, state === "elsewhere" ? "not on this node" : state),
      element("span", { class: "faint" }, `${listeners(one)} · ${one.scheduler}${relay}${refused ? ` · refused ${refused}` : ""}`)),
    element("div", { class: "plots" },
      plot(`${ident} rate`, "per second · errors", short, `${ident} errors`),
      plot(`${ident} half`, "50 % · 99 % within", duration, `${ident} slow`),
      plot(`${ident} in`, "in · out", (value) => `${bytes(value)}/s`, `${ident} out`),
      plot(`${ident} active`, "clients · waiting", short, `${ident} queued`)),
    element("table", {}, element("thead", {}, element("tr", {}, ...headings.map((text) => element("th", {}, text)))), body));
  if (one.servers.length > MAX_ROWS) made.append(element("p", { class: "faint" }, `and ${one.servers.length - MAX_ROWS} more`));
  if (one.rules.length) {
    const open = document.getElementById(`rules ${ident}`);
    const rules = element("details", { id: `rules ${ident}` }, element("summary", {}, `${one.rules.length} rules`),
      element("table", {}, element("tbody", {}, ...one.rules.slice(0, MAX_ROWS).map((rule) =>
        element("tr", {}, element("td", {}, rule.name || ""), element("td", {}, element("code", {}, rule.pattern)),
          element("td", {}, rule.action || weighedServers(rule)), element("td", {}, element("code", {}, rule.modifiers)),
          element("td", {}, ownResponses(rule, one.stats.responses)))))));
    rules.open = Boolean(open && open.open);
    made.append(rules);
  }
  return made;
}

// The servers of a rule, with their weights in it.
function weighedServers(rule) {
  return rule.servers.map((server, place) => [server, rule.weights[place]].filter((part) => part != null).join(" ")).join(", ");
}

// How many responses a rule with an action has given, by status. counts: "STATUS RULE" -> number.
function ownResponses(rule, counts) {
  if (!rule.action) return "";
  const label = rule.name || rule.pattern;
  const found = Object.entries(counts).filter(([key]) => key.slice(key.indexOf(" ") + 1) === label);
  return found.map(([key, count]) => `${key.split(" ", 1)[0]}: ${short(count)}`).join(", ") || "0";
}

// A table of the nodes of the cluster, and what they could not put in force.
function clusterNodes(data) {
  const cluster = data.cluster;
  if (!cluster) return [];
  const headings = ["Node", "State", "Revision", "Clients", "Version", "Up"];
  const text = (value) => (value == null ? "–" : String(value));
  const rows = cluster.nodes.slice(0, MAX_ROWS).map((node) => row([
    ["", node.node + (node.node === cluster.node ? " (this one)" : "")],
    ["state", element("span", { class: `state ${node.state}` }, node.drain && node.drain !== node.state ? `${node.state}, ${node.drain}` : node.state)],
    ["revision", text(node.revision)], ["clients", text(node.connections)], ["version", text(node.version)],
    ["up", node.since == null ? "–" : span(data.time - node.since)],
  ]));
  const state = cluster.connected ? "connected" : "disconnected";
  const wrong = cluster.nodes.flatMap((node) => node.errors.map((error) => `node ${node.node}: ${error}`));
  if (cluster.problem) wrong.unshift(`this node does not follow the cluster: ${cluster.problem}`);
  const parts = [
    element("div", { class: "title" }, element("h2", {}, "Nodes"), element("span", { class: `state ${state}` }, state),
      element("span", { class: "faint" }, `the table is at revision ${cluster.revision}`)),
    element("table", {}, element("thead", {}, element("tr", {}, ...headings.map((one) => element("th", {}, one)))), element("tbody", {}, ...rows)),
  ];
  if (cluster.nodes.length > MAX_ROWS) parts.push(element("p", { class: "faint" }, `and ${cluster.nodes.length - MAX_ROWS} more`));
  return [...parts, ...wrong.slice(0, MAX_ROWS).map((line) => element("p", { class: "wrong" }, line))];
}

// What is wrong with certificates: they expire soon, or their newest version cannot be used.
function certificateWarnings(data) {
  const lines = data.certificates.flatMap((one) => [one.error, one.warning]).filter(Boolean);
  return [...new Set(lines)].slice(0, MAX_ROWS).map((line) => element("li", {}, line));
}

function draw(data) {
  const seconds = previous ? data.time - previous.time : 0;
  const known = new Map((previous ? previous.services : []).map((one) => [one.ident, one]));
  const shown = data.services.slice(0, MAX_ROWS);
  document.getElementById("services").replaceChildren(...shown.map((one) => service(data, one, known.get(one.ident), seconds)));
  const nodes = document.getElementById("nodes");
  nodes.replaceChildren(...clusterNodes(data));
  nodes.hidden = !data.cluster;
  const warnings = certificateWarnings(data);
  const list = document.getElementById("certificates");
  list.replaceChildren(...warnings);
  list.hidden = !warnings.length;
  const bad = data.services.flatMap((one) => one.servers).filter((server) => ["down", "ejected"].includes(server.health.state));
  document.title = (bad.length ? `(${bad.length} down) ` : "") + "ktcpvs";
  const more = data.services.length > MAX_ROWS ? `, the first ${MAX_ROWS} are shown` : "";
  document.getElementById("about").textContent =
    `version ${data.version} · up ${span(data.time - data.started)} · ${data.services.length} services${more}`;
  document.getElementById("processes").textContent = data.processes.map((process) => {
    const then = previous && previous.processes.find((one) => one.name === process.name);
    return `${process.name}: ${Math.round(100 * gain(process.cpu, then ? then.cpu : undefined, seconds))} % CPU, ${bytes(process.memory)}`;
  }).join(" · ");
  for (const key of samples.keys()) {
    if (!data.services.some((one) => key.startsWith(`${one.ident} `))) samples.delete(key);
  }
  previous = data;
}

function warn(text) {
  const alert = document.getElementById("alert");
  alert.textContent = text;
  alert.hidden = !text;
  document.body.classList.toggle("gone", Boolean(text));
}

async function update() {
  try {
    const response = await fetch("api/v1/status", { cache: "no-store", signal: AbortSignal.timeout(FETCH_TIMEOUT) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const data = await response.json();
    if (!previous || data.time > previous.time) draw(data);
    failures = 0;
    lastSuccess = Date.now();
    warn("");
  } catch (error) {
    failures += 1;
    if (failures > 1) warn(`The daemon does not respond (${error.message}); the numbers below are ${span((Date.now() - lastSuccess) / 1000)} old.`);
  }
  setTimeout(update, UPDATE_INTERVAL);
}

update();
