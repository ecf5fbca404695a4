import { InvokeCommand, LambdaClient, type LambdaClientConfig } from "@aws-sdk/client-lambda";
import { type Operation, RefusedError } from "./errors.js";
import { record, text, whole } from "./json.js";
import type { Transport, TransportRequest, TransportResponse } from "./transport.js";

/**
 * The names or ARNs of the coordinator's functions, or of aliases of them, as the stack's outputs list them. The operations of a function that is
 * absent are refused.
 */
export interface Functions {
  acquire?: string;
  renew?: string;
  release?: string;
  forceRelease?: string;
  /** Serves `status` and `list`. */
  status?: string;
}

/** Configures an {@link InvokeTransport}. */
export interface InvokeConfig {
  functions: Functions;
  /** Region, credentials, endpoint and so on of the SDK's client. Its retries are not used, since the lock client retries itself. */
  lambda?: LambdaClientConfig;
}

/**
 * Invokes the coordinator's Lambda functions directly, without its HTTP API, with `@aws-sdk/client-lambda`. It serves clients in a VPC that reaches
 * Lambda only, and saves the price of the HTTP API. A caller needs permission for lambda:InvokeFunction on the functions, or on aliases of them that
 * are limited to some lock names; see docs/iam.md.
 */
export class InvokeTransport implements Transport {
  readonly #lambda: LambdaClient;
  readonly #functions: Record<Operation, string | undefined>;

  /** Sends no request. Throws a `TypeError` if no function is named. */
  constructor(config: InvokeConfig) {
    const f = config.functions;
    if (!f || !Object.values(f).some(Boolean)) throw new TypeError("InvokeConfig.functions is empty; name the coordinator's functions");
    this.#functions = { acquire: f.acquire, renew: f.renew, release: f.release, "force-release": f.forceRelease, status: f.status, list: f.status };
    this.#lambda = new LambdaClient({ ...config.lambda, maxAttempts: 1 });
  }

  async send({ operation, lock, fields }: TransportRequest, signal: AbortSignal): Promise<TransportResponse> {
    const name = this.#functions[operation];
    if (!name) throw new RefusedError(`no function is named for ${operation}; name one in InvokeConfig.functions`, { code: "invalid_request" });
    const payload: Record<string, unknown> = { ...fields };
    if (operation === "status" || operation === "list") payload["op"] = operation;
    if (operation !== "list") payload["name"] = lock;
    let answer: { FunctionError?: string | undefined; Payload?: Uint8Array | undefined };
    try {
      answer = await this.#lambda.send(new InvokeCommand({ FunctionName: name, Payload: Buffer.from(JSON.stringify(payload)) }), { abortSignal: signal });
    } catch (error) {
      if (signal.aborted) throw error;
      return fault(name, error);
    }
    const body = Buffer.from(answer.Payload ?? []).toString();
    if (answer.FunctionError === undefined) return { status: 200, body };
    const failed = parsed(body);
    const [type, message] = [text(failed["errorType"]), text(failed["errorMessage"])];
    const problem = parsed(message);
    if (text(problem["code"])) return { status: whole(problem["status"]), body: message };
    if (/^Runtime\.(InvalidEntrypoint|ImportModuleError|HandlerNotFound)$/.test(type)) {
      throw new RefusedError(`${name} does not start: ${type}: ${message}; look at its log, and deploy the stack again`, { code: "misconfigured" });
    }
    // Lambda reports that the function timed out or crashed. It may have written before.
    throw new Error(`${name} failed: ${type} ${message}`);
  }

  close(): void {
    this.#lambda.destroy();
  }
}

function parsed(json: string): Record<string, unknown> {
  try {
    return record(JSON.parse(json));
  } catch {
    return {};
  }
}

/** The answer for a failed invocation that was throttled. Throws a `RefusedError` if no retry can help, and otherwise the error. */
function fault(name: string, error: unknown): TransportResponse {
  const failed = error as Error & { $metadata?: { httpStatusCode?: number } };
  const status = failed.$metadata?.httpStatusCode ?? 0;
  if (status === 429) return { status, body: JSON.stringify({ message: `Lambda throttles ${name}` }) };
  const fix = fixes.find(([names]) => names.test(failed.name))?.[1];
  // Lambda answers 409 while the function is being deployed.
  if (fix === undefined && (Math.floor(status / 100) !== 4 || status === 409 || status === 408)) throw failed;
  throw new RefusedError(`${name}: ${failed.name}: ${failed.message}: ${fix ?? "check InvokeConfig.functions and the endpoint of Lambda"}`, {
    code: "misconfigured",
    cause: error,
  });
}

/** What to do about errors of Lambda's, or of the SDK's credentials, that no retry corrects. */
const fixes: [RegExp, string][] = [
  [/^AccessDeniedException$/, "allow lambda:InvokeFunction on this function for the role"],
  [/^ResourceNotFoundException$/, "there is no such function in this region and account: check InvokeConfig.functions and the region"],
  [/^ExpiredToken(Exception)?$/, "the credentials have expired; renew them (with single sign-on: aws sso login)"],
  [
    /^(CredentialsProviderError|UnrecognizedClientException|InvalidClientTokenId|MissingAuthenticationTokenException|IncompleteSignatureException)$/,
    "the credentials are not valid; check AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or the profile",
  ],
  [/^(InvalidSignatureException|SignatureDoesNotMatch)$/, "check the secret key, and this machine's clock"],
  [/^RequestExpired$/, "set this machine's clock right"],
  [/^(InvalidParameterValueException|ValidationException)$/, "check InvokeConfig.functions"],
  [
    /^(InvalidRuntimeException|InvalidZipFileException|InvalidSecurityGroupIDException|InvalidSubnetIDException|EC2AccessDeniedException|KMS\w+Exception)$/,
    "the function cannot run as it is deployed; look at it in Lambda, and deploy the stack again",
  ],
];
