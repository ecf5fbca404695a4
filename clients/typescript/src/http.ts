import { Agent as HTTPAgent, request as httpRequest, type IncomingMessage } from "node:http";
import { Agent as HTTPSAgent, request as httpsRequest } from "node:https";
import { type Operation, RefusedError } from "./errors.js";
import type { Transport, TransportRequest, TransportResponse } from "./transport.js";

/** Signs requests of HTTP; `sigV4` makes one. */
export interface Signer {
  /** Throws a `TypeError` if requests to the endpoint cannot be signed as the signer is configured. `new Client` calls it. */
  check?(endpoint: URL): void;
  /** Returns the headers to send, those given included. A `RefusedError` means that no retry corrects the failure. */
  sign(request: SignableRequest): Promise<Record<string, string>>;
}

export interface SignableRequest {
  method: string;
  endpoint: URL;
  /** The path as it is sent, percent-encoded once. */
  path: string;
  query: Record<string, string>;
  headers: Record<string, string>;
  body: string | undefined;
}

export interface HTTPConfig {
  endpoint?: string | undefined;
  signer?: Signer | undefined;
  agent?: HTTPAgent | undefined;
}

/** In bytes; the largest answer, a page of a list, is below 6 MB. */
const maxAnswer = 8 << 20;

const routes: Record<Operation, [method: string, path: string]> = {
  acquire: ["POST", "/v1/locks/{name}/acquire"],
  renew: ["POST", "/v1/locks/{name}/renew"],
  release: ["POST", "/v1/locks/{name}/release"],
  "force-release": ["POST", "/v1/locks/{name}/force-release"],
  status: ["GET", "/v1/locks/{name}"],
  list: ["GET", "/v1/locks"],
};

/** The coordinator's HTTP API over HTTP/1.1. It follows no redirect: a redirected request would carry a lease's secret to another host. */
export class HTTPTransport implements Transport {
  readonly #endpoint: URL;
  readonly #signer: Signer | undefined;
  readonly #agent: HTTPAgent;
  readonly #ownAgent: boolean;
  #reached = false; // the coordinator has answered at least once

  /** Throws a `TypeError` that names the field of the configuration that is wrong. */
  constructor(config: HTTPConfig) {
    this.#endpoint = checkEndpoint(config.endpoint);
    this.#signer = config.signer;
    if (gatewayRegion(this.#endpoint.hostname) !== undefined && !config.signer) {
      throw new TypeError(`ClientConfig.signer is missing, and ${this.#endpoint.host} takes signed requests only; give sigV4() of @holdfast-lock/client/sigv4`);
    }
    config.signer?.check?.(this.#endpoint);
    this.#ownAgent = config.agent === undefined;
    this.#agent = config.agent ?? new (this.#endpoint.protocol === "https:" ? HTTPSAgent : HTTPAgent)({ keepAlive: true });
  }

  async send(r: TransportRequest, signal: AbortSignal): Promise<TransportResponse> {
    const [method, route] = routes[r.operation];
    // A name has no character that a path cannot have, but some gateways decode a literal + as a space.
    const path = this.#endpoint.pathname.replace(/\/+$/, "") + route.replace("{name}", () => r.lock.replaceAll("+", "%2B"));
    const body = method === "POST" ? JSON.stringify(r.fields) : undefined;
    const query: Record<string, string> = {};
    if (method === "GET") for (const [key, value] of Object.entries(r.fields)) if (value !== undefined) query[key] = String(value);
    let headers: Record<string, string> = { host: this.#endpoint.host, accept: "application/json" };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (this.#signer) headers = await this.#signer.sign({ method, endpoint: this.#endpoint, path, query, headers, body });
    if (body !== undefined) headers["content-length"] = String(Buffer.byteLength(body));
    const search = new URLSearchParams(query).toString();
    try {
      const response = await this.#exchange(method, path + (search && `?${search}`), headers, body, signal);
      this.#reached = true;
      return response;
    } catch (error) {
      if (signal.aborted) this.#dropIdle();
      const fix = this.#reached ? undefined : lasting(error);
      throw fix === undefined ? error : new RefusedError(`${(error as Error).message}: ${fix}`, { code: "misconfigured", cause: error });
    }
  }

  #exchange(method: string, path: string, headers: Record<string, string>, body: string | undefined, signal: AbortSignal): Promise<TransportResponse> {
    const { protocol, hostname, port } = this.#endpoint;
    return new Promise((resolve, reject) => {
      const options = { method, path, headers, signal, agent: this.#agent, host: hostname.replace(/^\[|\]$/g, ""), port: port || undefined };
      const request = (protocol === "https:" ? httpsRequest : httpRequest)(options, (answer) => {
        const to = answer.headers.location;
        if ((answer.statusCode ?? 0) >= 300 && (answer.statusCode ?? 0) < 400 && to !== undefined) {
          request.destroy();
          reject(redirected(this.#endpoint, to));
          return;
        }
        readAll(answer).then(resolve, reject);
      });
      request.on("error", reject);
      request.end(body);
    });
  }

  /**
   * Closes the connections that are not in use. After a time-out a connection whose peer has vanished would otherwise be used for the next
   * request, too.
   */
  #dropIdle(): void {
    if (!this.#ownAgent) return;
    for (const sockets of Object.values(this.#agent.freeSockets)) for (const socket of sockets ?? []) socket.destroy();
  }

  close(): void {
    this.#dropIdle();
  }
}

async function readAll(answer: IncomingMessage): Promise<TransportResponse> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of answer) {
    size += (part as Buffer).length;
    if (size > maxAnswer) throw new Error(`the answer is longer than ${maxAnswer} bytes`);
    parts.push(part as Buffer);
  }
  const response: TransportResponse = { status: answer.statusCode ?? 0, body: Buffer.concat(parts).toString() };
  const after = answer.headers["retry-after"];
  if (after !== undefined && /^\d{1,9}$/.test(after)) response.retryAfterMs = Number(after) * 1000;
  return response;
}

/** The error of a redirect. It names only the host of the target: the rest of the URL may contain a secret. */
function redirected(from: URL, to: string): RefusedError {
  const target = URL.canParse(to, from.href) ? new URL(to, from).origin : "another place";
  return new RefusedError(
    `${from.host} redirects to ${target}, and redirects are not followed, since the request may hold a secret; if that is the right host, name it as the endpoint`,
    { code: "misconfigured" },
  );
}

function checkEndpoint(endpoint: unknown): URL {
  if (typeof endpoint !== "string" || endpoint === "") throw new TypeError("ClientConfig.endpoint is empty; give the coordinator's URL, or a transport");
  const quoted = JSON.stringify(endpoint);
  if (!endpoint.includes("://")) {
    const local = /^(localhost|127\.[\d.]+|\[::1\])([:/]|$)/.test(endpoint);
    throw new TypeError(`ClientConfig.endpoint is ${quoted}, without a scheme; give a URL: ${local ? "http" : "https"}://${endpoint}`);
  }
  const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined;
  if (!url || !/^https?:$/.test(url.protocol) || url.hostname === "") {
    throw new TypeError(`ClientConfig.endpoint is ${quoted}; give a URL like https://ID.execute-api.REGION.amazonaws.com or http://127.0.0.1:7420`);
  }
  if (url.username || url.password)
    throw new TypeError("ClientConfig.endpoint has a user name or password in it; requests are signed by ClientConfig.signer instead");
  if (url.search || url.hash || /\/v1\/locks\/*$/.test(url.pathname)) {
    throw new TypeError(`ClientConfig.endpoint is ${quoted}; give the URL only up to where /v1/locks begins`);
  }
  if (url.protocol === "http:" && gatewayRegion(url.hostname) !== undefined) {
    throw new TypeError(`ClientConfig.endpoint is ${quoted}; API Gateway is reached over https only`);
  }
  return url;
}

/**
 * The region in the host name of an API Gateway endpoint, ID.execute-api.REGION.amazonaws.com or that of a VPC endpoint or of another
 * partition; undefined for any other host.
 */
export function gatewayRegion(host: string): string | undefined {
  const parts = host.split(".");
  const i = parts.indexOf("execute-api");
  return i >= 1 && parts.slice(i + 2).includes("amazonaws") ? parts[i + 1] : undefined;
}

/** What to do about a failed connection that will fail again; undefined if the failure may pass, as a refused connection may. */
function lasting(error: unknown): string | undefined {
  if (error instanceof RefusedError) return undefined;
  const code = String((error as { code?: unknown }).code ?? "");
  if (code === "ENOTFOUND") return "there is no such host: check the endpoint";
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") return "give the endpoint by a name that its certificate has";
  if (code === "CERT_HAS_EXPIRED") return "check this machine's clock; if it is right, the server needs a new certificate";
  if (/^(DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_|CERT_)/.test(code)) {
    return "the server's certificate cannot be trusted: check the endpoint's host; if its certificate is a private authority's, name it in NODE_EXTRA_CA_CERTS";
  }
  if (code === "EPROTO" || code === "ERR_SSL_WRONG_VERSION_NUMBER")
    return "this port does not speak TLS: check the endpoint's port, and whether it begins with http://";
  if (code.startsWith("HPE_")) return "this port does not speak HTTP: check the endpoint's port, and whether it begins with https://";
  return undefined;
}
