import { STATUS_CODES } from "node:http";
import { type HoldfastError, type Operation, problemError, RefusedError, UnavailableError } from "./errors.js";
import { record, text } from "./json.js";

/**
 * Carries requests to a coordinator and answers back. The package has one for HTTP, and one that invokes the functions (`InvokeTransport`). A
 * transport is used by many requests at a time.
 */
export interface Transport {
  /**
   * Sends a request once, and gives up when the signal ends. A `RefusedError` means that no retry corrects the failure. Any other error means
   * that there is no answer and that it is not known whether the request took effect: the client sends it again.
   */
  send(request: TransportRequest, signal: AbortSignal): Promise<TransportResponse>;
  /** Closes what is open, when the client is closed. Later requests may open it again. */
  close?(): void;
}

export interface TransportRequest {
  operation: Operation;
  /** The lock's name; empty for a list. */
  lock: string;
  /** The operation's fields, as in docs/openapi.yaml; of a list, its query. */
  fields: Record<string, unknown>;
}

export interface TransportResponse {
  /** The HTTP status: 200 for a success. */
  status: number;
  /** The operation's answer in JSON, or a problem (RFC 9457) if the status is not 200. */
  body: string;
  /** When to send the request again, in milliseconds, as an answer that is not the coordinator's says. */
  retryAfterMs?: number;
}

/** Reads an answer: the object of a success. Throws the error of a problem, and of an answer that is not the coordinator's. */
export function readAnswer(response: TransportResponse, secret: unknown): Record<string, unknown> {
  if (response.status === 200) return readSuccess(response.body);
  // A proxy's answer may repeat the request, and its text becomes an error's.
  const body = typeof secret === "string" ? response.body.replaceAll(secret, "(the lease's secret)") : response.body;
  throw problemError(response.status, parsed(body)) ?? gatewayError(response, body);
}

/** An answer that was cut off may be complete the next time; one that is not JSON will not be JSON the next time. */
function readSuccess(body: string): Record<string, unknown> {
  const start = body.trimStart()[0];
  if (start !== undefined && start !== "{") throw notCoordinator(200, "an answer that is not JSON");
  try {
    return record(JSON.parse(body));
  } catch (error) {
    throw new UnavailableError("its answer was cut off", { cause: error });
  }
}

function parsed(body: string): Record<string, unknown> {
  try {
    return record(JSON.parse(body));
  } catch {
    return {};
  }
}

/** The error for an answer of a server that is no coordinator. */
export function notCoordinator(status: number, what: string): RefusedError {
  return new RefusedError(`there is no coordinator at this URL (${what}); check endpoint, which ends where /v1/locks begins`, { status });
}

/** How many characters of a gateway's message an error text repeats. */
const maxMessage = 200;

/**
 * The error for an answer that is not the coordinator's: that of API Gateway, of Lambda, of a proxy, or of a server that is no coordinator.
 * Some of them pass, and are retried; the text of the others says what to change.
 */
function gatewayError({ status, retryAfterMs }: TransportResponse, body: string): HoldfastError {
  // The form of AWS's services. Nothing of another answer is repeated: it may contain the request.
  const answer = parsed(body);
  const message = (text(answer["message"]) || text(answer["Message"])).slice(0, maxMessage);
  const statusText = `${status} ${STATUS_CODES[status] ?? ""}`.trim();
  const refused = (...parts: string[]) => new RefusedError(parts.filter(Boolean).join(": "), { status });
  switch (status) {
    case 401:
    case 403:
      return refused(message, forbiddenFix(message.toLowerCase()));
    case 400:
      return refused(message, "this is not a coordinator's answer: check endpoint, and whether it begins with https://");
    case 501: // from servers without POST or HTTP/1.1
    case 505:
      return notCoordinator(status, statusText);
  }
  if (status >= 500 || status === 408 || status === 425 || status === 429) {
    return new UnavailableError([statusText, message].filter(Boolean).join(": "), { afterMs: retryAfterMs ?? 0, throttled: status === 429 });
  }
  return notCoordinator(status, [message, statusText].filter(Boolean).join(": "));
}

/** What to do about a request that API Gateway refused with a message. */
function forbiddenFix(message: string): string {
  const has = (...texts: string[]) => texts.some((text) => message.includes(text));
  if (has("signature expired", "signature not yet current", "not yet valid")) return "set this machine's clock right";
  if (has("token") && has("expired")) return "the credentials have expired; renew them (with single sign-on: aws sso login)";
  if (has("token") && has("invalid")) return "the credentials are not valid; check AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or the credentials of sigV4";
  if (has("missing authentication token")) return "sign the requests (ClientConfig.signer), and check endpoint, which ends where /v1/locks begins";
  if (has("signature", "credential")) return "check the secret key and the region of sigV4, and that nothing on the way changes the request";
  return "sign with credentials that may call execute-api:Invoke on this route (ClientConfig.signer)";
}
