// The cards of the services: figures of each, and plots, servers and rules of those that are open.

import { Figures, Table, element, setAttribute, setClass, setHidden, setText } from "./dom.js";
import { NOTHING, bytes, bytesPerSecond, count, duration, moment, perSecond, percent, rate, span } from "./format.js";
import { serverErrors } from "./measure.js";
import { AXES, Plot } from "./plots.js";

const MAX_ROWS = 200; // the most servers and rules of one service that are drawn
const BACKUP = 100; // the priority of backup servers
const NOW = "last 5 seconds";
const TOTAL = "since the start";

// Only plots that can show something: latencies and responses are known where each request is switched.
function plotsOf(isRequests) {
  const what = isRequests ? "Requests" : "Connections";
  return [
    new Plot(`${what} per second`, [["rate", ""]], AXES.rate, rate),
    new Plot("Errors per second", [["errors", ""]], AXES.rate, rate),
    ...(isRequests ? [new Plot("Latency", [["half", "50 %"], ["slow", "99 %"]], AXES.duration, duration)] : []),
    new Plot("Clients connected", [["active", ""]], AXES.count, count),
    new Plot("Bytes in per second", [["in", ""]], AXES.bytes, bytes),
    new Plot("Bytes out per second", [["out", ""]], AXES.bytes, bytes),
  ];
}

function columnsOf(isRequests) {
  const what = isRequests ? "Requests" : "Connections";
  return [
    { label: "Server", isText: true },
    { label: "State", isText: true },
    { label: "Weight" },
    { label: "Active", group: NOW },
    { label: `${what}/s`, group: NOW },
    { label: "Errors/s", group: NOW },
    ...(isRequests ? [{ label: "50 %", group: NOW }, { label: "99 %", group: NOW }] : []),
    { label: "In/s", group: NOW },
    { label: "Out/s", group: NOW },
    { label: what, group: TOTAL },
    { label: "Errors", group: TOTAL },
    { label: "Retries", group: TOTAL },
  ];
}

function columnsOfRules(isRequests) {
  const what = isRequests ? "Requests" : "Connections";
  return [
    ...["Rule", "Condition", "Servers or action", "Modifiers"].map((label) => ({ label, isText: true })),
    { label: `${what}/s`, group: NOW },
    { label: "Share", group: NOW },
    { label: what, group: TOTAL },
    { label: "Own responses", group: TOTAL, isText: true },
  ];
}

function weight(server) {
  if (server.weight === undefined) return NOTHING;
  const priority = server.priority === BACKUP ? " backup" : server.priority ? ` priority ${server.priority}` : "";
  return `${server.weight}${priority}`;
}

// Since when a server has its state, and why, where that is not just "up".
function about(server, now) {
  if (!server.health) return "";
  const { state, since, reason } = server.health;
  const parts = [];
  if (state !== "up" && since) parts.push(`for ${span(now - since)}`);
  if (state !== "up" && reason) parts.push(reason);
  const error = server.last_error;
  if (error && error.in_a_row) parts.push(`${error.in_a_row} failed in a row, the last at ${moment(error.at)}: ${error.reason}`);
  return parts.join("; ");
}

function isFull(server) {
  return server.maxconn > 0 && server.stats.active >= server.maxconn;
}

// The labels of a server, as they are written in the configuration.
function labels(server) {
  return Object.entries(server.labels || {}).map(([name, value]) => (value ? `${name}=${value}` : name)).join(", ");
}

function serverRow(server, measured, isRequests, now) {
  const { stats, health } = server;
  const state = health ? health.state : "redirect";
  const limit = server.maxconn ? ` of ${count(server.maxconn)}` : "";
  const waiting = stats.pending ? `${count(stats.pending)} waiting` : "";
  return [
    { text: server.name || server.address, note: [server.name ? server.address : "", labels(server)].filter(Boolean).join(" · ") },
    { text: state === "up" && isFull(server) ? "full" : state, state: state === "up" && isFull(server) ? "full" : state, note: about(server, now) },
    weight(server),
    { text: count(stats.active) + limit, note: waiting },
    rate(measured.rate),
    rate(measured.errors),
    ...(isRequests ? [duration(measured.half), duration(measured.slow)] : []),
    bytes(measured.in),
    bytes(measured.out),
    count(stats.total),
    count(serverErrors(stats)),
    count(stats.retries),
  ];
}

function listeners(one) {
  return one.listeners.map((listener) => listener.listen + (listener.tls ? " tls" : "") + (listener.on ? ` on ${listener.on}` : "")).join(", ");
}

// The servers of a rule, with their weights in it.
function weighedServers(rule) {
  return rule.servers.map((server, place) => [server, rule.weights[place]].filter((part) => part != null).join(" ")).join(", ");
}

// How many responses a rule with an action has given, by status. counts: "STATUS RULE" -> number.
function ownResponses(rule, counts) {
  if (!rule.action) return "";
  const found = Object.entries(counts).filter(([key]) => key.slice(key.indexOf(" ") + 1) === rule.label);
  return found.map(([key, number]) => `${key.split(" ", 1)[0]}: ${count(number)}`).join(", ") || "0";
}

function ruleRow(rule, measured, counts) {
  return [
    rule.name || NOTHING,
    rule.pattern,
    rule.action || weighedServers(rule),
    rule.modifiers || NOTHING,
    rate(measured.rate),
    percent(measured.share),
    measured.total === null ? NOTHING : count(measured.total),
    ownResponses(rule, counts) || NOTHING,
  ];
}

// How a service is, in a word.
function stateOf(one) {
  return !one.running ? "stopped" : one.here ? "running" : "elsewhere";
}

// How many servers of a service can be used, and how bad that is.
function usable(one) {
  const states = one.servers.map((server) => server.health.state);
  const up = states.filter((state) => state === "up" || state === "standby").length;
  const bad = states.some((state) => ["down", "ejected", "unresolved"].includes(state));
  return [`${up} of ${states.length} up`, states.length && !up ? "critical" : bad ? "warning" : ""];
}

// The texts by which a service is found, in lower case.
export function searchText(one) {
  const servers = one.servers.flatMap((server) => [server.address, server.name || "", labels(server), server.health.state, isFull(server) ? "full" : ""]);
  return [one.ident, listeners(one), one.scheduler, stateOf(one), ...new Set(servers)].join(" ").toLowerCase();
}

export function anchor(ident) {
  return `service=${encodeURIComponent(ident)}`;
}

// The card of one service.
export class Card {
  // number: for ids of elements. toggled: called with the card when a person opens or closes it.
  constructor(ident, number, toggled) {
    this.ident = ident;
    this.isOpen = false;
    this.isVisible = false;
    this.state = element("span", { class: "state" });
    this.about = element("p", { class: "faint about" });
    this.figures = new Figures();
    this.button = element("button", { type: "button", "aria-expanded": "false", "aria-controls": `body-${number}` }, ident);
    this.bodyElement = element("div", { class: "body", id: `body-${number}` });
    this.bodyElement.hidden = true;
    this.element = element("article", { class: "card", "aria-labelledby": `name-${number}` },
      element("div", { class: "line" },
        element("div", { class: "name" }, element("h3", { id: `name-${number}` }, this.button), this.state, this.about),
        this.figures.element),
      this.bodyElement);
    this.button.addEventListener("click", () => {
      this.open(!this.isOpen);
      toggled(this);
    });
    this.body = null;
    this.latest = null;
  }

  open(isOpen) {
    if (this.isOpen === isOpen) return;
    this.isOpen = isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    this.bodyElement.hidden = !isOpen;
    this.draw();
  }

  // Keep the newest data. It is drawn at once where the card is visible.
  update(one, measured, samples, data, badness) {
    const isNew = !this.latest; // drawn even if it is not visible, for the browser's own search
    this.latest = { one, measured, samples, data, badness };
    if (this.isVisible || isNew) this.draw();
  }

  see(isVisible) {
    this.isVisible = isVisible;
    if (isVisible) this.draw();
  }

  draw() {
    if (!this.latest) return;
    const { one, measured, badness } = this.latest;
    const state = stateOf(one);
    setText(this.state, state === "elsewhere" ? "not on this node" : state);
    setClass(this.state, `state ${state}`);
    setClass(this.element, `card ${badness}${this.isOpen ? " open" : ""}`);
    setText(this.about, `${listeners(one)} · ${one.scheduler}`);
    const isServing = state === "running";
    const figure = (text) => (isServing ? text : NOTHING);
    const [up, grade] = usable(one);
    this.figures.fill([
      ["Servers", figure(up), isServing ? grade : ""],
      ["Clients", figure(count(one.stats.active) + (one.stats.queued ? `, ${count(one.stats.queued)} waiting` : ""))],
      [measured.isRequests ? "Requests" : "Connections", figure(perSecond(measured.rate))],
      ["Errors", figure(perSecond(measured.errors)), measured.errors > 0 ? "warning" : ""],
      ["99 % within", measured.isRequests ? figure(duration(measured.slow)) : ""],
      ["In", figure(bytesPerSecond(measured.in))],
      ["Out", figure(bytesPerSecond(measured.out))],
    ]);
    if (this.isOpen) this.drawBody();
  }

  drawBody() {
    const { one, measured, samples, data } = this.latest;
    if (!this.body || this.body.isRequests !== measured.isRequests) this.body = this.makeBody(measured.isRequests);
    const { plots, notes, servers, rules, more } = this.body;
    const isServing = one.running && one.here;
    setText(notes, isServing ? this.notes(one, measured) : "");
    setHidden(plots[0].element.parentElement, !isServing);
    if (isServing) plots.forEach((plot) => plot.draw(samples, data.time));
    const rows = one.servers.slice(0, MAX_ROWS).map((server, place) => serverRow(server, measured.servers[place], measured.isRequests, data.time));
    if (one.redirect) rows.push(serverRow(one.redirect, measured.redirect, measured.isRequests, data.time));
    servers.fill(rows);
    setHidden(servers.element, !rows.length);
    rules.table.fill(one.rules.slice(0, MAX_ROWS).map((rule, place) => ruleRow(rule, measured.rules[place], one.stats.responses)));
    setText(rules.summary, `${one.rules.length} ${one.rules.length === 1 ? "rule" : "rules"}`);
    setHidden(rules.element, !one.rules.length);
    const left = [[one.servers.length, "servers"], [one.rules.length, "rules"]].filter(([number]) => number > MAX_ROWS);
    setText(more, left.map(([number, what]) => `and ${number - MAX_ROWS} more ${what}`).join(", "));
  }

  makeBody(isRequests) {
    const plots = plotsOf(isRequests);
    const notes = element("p", { class: "faint" });
    const servers = new Table(`Servers of ${this.ident}`, columnsOf(isRequests));
    const table = new Table(`Rules of ${this.ident}`, columnsOfRules(isRequests));
    const summary = element("summary");
    const rules = { table, summary, element: element("details", {}, summary, table.element) };
    const more = element("p", { class: "faint" });
    const drawn = element("div", { class: "plots" }, ...plots.map((plot) => plot.element));
    this.bodyElement.replaceChildren(notes, drawn, servers.element, more, rules.element);
    return { isRequests, plots, notes, servers, rules, more };
  }

  // Totals of the service, in one line.
  notes(one, measured) {
    const what = measured.isRequests ? "requests" : "connections";
    const byStatus = (counts) => Object.entries(counts).map(([code, number]) => `${count(number)} with ${code}`).join(", ");
    const [refused, redirected] = [byStatus(one.stats.refusals), byStatus(one.stats.redirected)];
    const parts = [`since the start: ${count(measured.total)} ${what}, ${count(measured.allErrors)} errors, in ${bytes(one.stats.bytes_in)}, out ${bytes(one.stats.bytes_out)}`];
    if (refused) parts.push(`refused ${refused}`);
    if (redirected) parts.push(`redirected ${redirected}`);
    if (one.stats.broken_responses) parts.push(`broken responses ${count(one.stats.broken_responses)}`);
    if (one.stats.denied) parts.push(`denied ${count(one.stats.denied)}`);
    if (one.stats.limited) parts.push(`limited ${count(one.stats.limited)}`);
    if (one.stats.relay) parts.push(`relay ${one.stats.relay.in_use}`);
    if (one.maxclients) parts.push(`at most ${count(one.maxclients)} clients`);
    setAttribute(this.bodyElement, "data-unit", measured.isRequests ? "request" : "connection");
    return parts.join(" · ");
  }
}
