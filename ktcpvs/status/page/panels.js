// The parts of the page around the services: trouble, totals, nodes, certificates and processes.

import { Figures, Table, element, setClass, setHidden, setText } from "./dom.js";
import { NOTHING, bytes, bytesPerSecond, count, day, moment, perSecond, percent, span } from "./format.js";
import { gain } from "./measure.js";
import { anchor } from "./services.js";

const MAX_ROWS = 200; // the most nodes and certificates that are drawn
const MAX_TROUBLE = 8; // lines of trouble that stand outside of "more"
const DAY = 86400; // seconds

// What is due next of a certificate that the switch obtains, by its state; nothing while its order is in progress.
const DUE = { waiting: "to be ordered", valid: "to be renewed", failed: "next attempt" };

export const CRITICAL = "critical";

function by(id) {
  return document.getElementById(id);
}

// The list of trouble. Lines are kept as long as their trouble lasts, so that a link keeps its focus.
class Trouble {
  constructor() {
    this.lines = new Map();
    this.list = by("trouble-list");
    this.rest = element("ul");
    this.summary = element("summary");
    this.more = element("details", {}, this.summary, this.rest);
    by("trouble").append(this.more);
  }

  // rows: as in the JSON, the gravest first. Returns how many are critical.
  draw(rows, leftOut, data) {
    const critical = rows.filter((row) => row.severity === CRITICAL).length;
    const warnings = rows.length - critical + leftOut;
    const parts = [[critical, "critical", "critical"], [warnings, "warning", "warnings"]].filter(([number]) => number);
    const told = parts.map(([number, one, many]) => `${number} ${number === 1 ? one : many}`).join(", ");
    const title = told ? `Trouble: ${told}` : "No trouble";
    setText(by("trouble-title"), title);
    setText(by("trouble-told"), title); // read out by screen readers when it changes
    setClass(by("trouble"), critical ? "critical" : warnings ? "warning" : "fine");
    const seen = new Set();
    rows.forEach((row, place) => {
      const key = [row.kind, row.service, row.server, row.node, row.kind === "certificate" ? row.text : "",
        seen.has(`${row.kind} ${row.service} ${row.server}`) ? place : ""].join("\n");
      seen.add(`${row.kind} ${row.service} ${row.server}`).add(key);
      const line = this.lines.get(key) || this.makeLine(key, row);
      this.fill(line, row, data);
      const parent = place < MAX_TROUBLE ? this.list : this.rest;
      const before = parent.children[place < MAX_TROUBLE ? place : place - MAX_TROUBLE] || null;
      if (before !== line.element) parent.insertBefore(line.element, before);
    });
    for (const [key, line] of this.lines) {
      if (!seen.has(key)) {
        line.element.remove();
        this.lines.delete(key);
      }
    }
    const hidden = Math.max(0, rows.length - MAX_TROUBLE) + leftOut;
    setText(this.summary, `${hidden} more${leftOut ? `, of which ${leftOut} are not listed` : ""}`);
    setHidden(this.more, !hidden);
    return critical;
  }

  makeLine(key, row) {
    const line = { mark: element("b"), text: element("span"), code: element("code"), time: element("span", { class: "faint" }) };
    line.element = element("li", {}, line.mark);
    if (row.service !== null) line.element.append(element("a", { href: `#${anchor(row.service)}` }, row.service), " ");
    line.element.append(line.text, " ", line.code, line.time);
    this.lines.set(key, line);
    return line;
  }

  fill(line, row, data) {
    setClass(line.element, row.severity);
    setText(line.mark, row.severity);
    if (row.kind === "trial") {
      setText(line.text, `the table is on trial: it is undone in ${span(data.trial)}, at ${moment(data.time + data.trial)}. To keep it:`);
      setText(line.code, "tcpvsadm --confirm");
    } else {
      setText(line.text, row.text);
    }
    setText(line.time, row.since === null ? "" : `for ${span(data.time - row.since)}`);
  }
}

function nodeNote(node) {
  return node.errors.join("; ");
}

function certificateState(one, now) {
  const expired = one.not_after !== null && one.not_after <= now;
  const order = one.acme;
  const isFailed = order && order.error !== "";
  const state = expired ? "expired" : one.error ? "stale" : one.warning || isFailed ? "warning" : "valid";
  const notes = [one.error, one.warning];
  if (order) {
    notes.push(order.error);
    const due = DUE[order.state];
    if (due) notes.push(`${due} ${order.next === null ? "now" : `at ${moment(order.next)}`}`);
  }
  const failed = one.issuer === one.subject ? "not obtained" : "not renewed";
  const text = isFailed ? failed : order && order.state !== "valid" ? order.state : state;
  return { text, state, note: notes.filter(Boolean).join("; ") };
}

function until(seconds, now) {
  if (seconds === null) return NOTHING;
  const left = seconds - now;
  return { text: day(seconds), note: left <= 0 ? `${span(-left)} ago` : left > 2 * DAY ? `in ${Math.floor(left / DAY)} days` : `in ${span(left)}` };
}

function texts(...labels) {
  return labels.map((label) => ({ label, isText: true }));
}

export class Panels {
  constructor() {
    this.trouble = new Trouble();
    this.totals = new Figures(document.querySelector("#totals .figures"));
    this.nodes = new Table("Nodes", [...texts("Node", "State"), { label: "Revision" }, { label: "Clients" }, { label: "Version" }, { label: "Up" }]);
    this.certificates = new Table("Certificates", texts("Names", "State", "Valid until", "Services", "File"));
    this.processes = new Table("Processes", [{ label: "Process", isText: true }, { label: "CPU" }, { label: "Memory" }, { label: "File descriptors" }]);
    by("nodes").append(this.nodes.element);
    by("certificates").append(this.certificates.element);
    by("processes").append(this.processes.element);
  }

  drawTotals(services) {
    const sum = (name, ones = services) => {
      const known = ones.map((now) => now[name]).filter((value) => value !== null);
      return ones.length && !known.length ? null : known.reduce((all, value) => all + value, 0);
    };
    const requests = services.filter((now) => now.isRequests);
    const connections = services.filter((now) => !now.isRequests);
    const errors = sum("errors");
    this.totals.fill([
      ["Clients connected", count(sum("active"))],
      ["Clients waiting", count(sum("queued"))],
      ["Requests", perSecond(sum("rate", requests))],
      ["TCP connections", perSecond(sum("rate", connections))],
      ["Errors", perSecond(errors), errors ? "warning" : ""],
      ["In", bytesPerSecond(sum("in"))],
      ["Out", bytesPerSecond(sum("out"))],
    ]);
  }

  drawNodes(data) {
    const cluster = data.cluster;
    setHidden(by("nodes"), !cluster);
    if (!cluster) return;
    const text = (value) => (value == null ? NOTHING : String(value));
    const left = cluster.nodes.length > MAX_ROWS ? `, the first ${MAX_ROWS} of ${cluster.nodes.length} nodes are shown` : "";
    const state = cluster.connected ? "this node follows the cluster" : `this node does not follow the cluster: ${cluster.problem}`;
    setText(by("nodes-about"), `${state}, the table is at revision ${cluster.revision}${left}`);
    this.nodes.fill(cluster.nodes.slice(0, MAX_ROWS).map((node) => [
      node.node === cluster.node ? { text: node.node, note: "this one" } : node.node,
      { text: node.drain && node.drain !== node.state ? `${node.state}, ${node.drain}` : node.state, state: node.state, note: nodeNote(node) },
      text(node.revision), text(node.connections), text(node.version), node.since == null ? NOTHING : span(data.time - node.since),
    ]));
  }

  drawCertificates(data) {
    setHidden(by("certificates"), !data.certificates.length);
    this.certificates.fill(data.certificates.slice(0, MAX_ROWS).map((one) => [
      { text: one.names.join(", ") || one.subject || NOTHING, note: one.kind },
      certificateState(one, data.time), until(one.not_after, data.time), one.services.join(", ") || NOTHING,
      { text: one.file, note: one.use === "certificate" ? "" : one.use },
    ]));
  }

  // then: the data of an earlier update; null: there is none.
  drawProcesses(data, then) {
    const seconds = then ? data.time - then.time : 0;
    const known = new Map((then ? then.processes : []).map((process) => [process.name, process]));
    this.processes.fill(data.processes.map((process) => {
      const before = known.get(process.name);
      const limit = process.max_descriptors === null ? "" : ` of ${count(process.max_descriptors)}`;
      return [process.name, percent(gain(process.cpu, before && before.cpu, seconds)), bytes(process.memory), count(process.descriptors) + limit];
    }));
    const workers = data.workers;
    setText(by("workers"), workers ? `${workers.ready} of ${workers.configured} workers serve, ${workers.restarts} were replaced since the start` : "one process serves");
  }
}
