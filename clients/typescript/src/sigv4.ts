import { createHash, createHmac, type Hash, type Hmac } from "node:crypto";
import { SignatureV4 } from "@smithy/signature-v4";
import { RefusedError } from "./errors.js";
import { gatewayRegion, type SignableRequest, type Signer } from "./http.js";

/** Credentials as the AWS SDK has them. */
export interface Credentials {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string;
  expiration?: Date;
}

/** Configures {@link sigV4}. */
export interface SigV4Config {
  /** The region that requests are signed for. By default that in the host name of an API Gateway endpoint; required for other endpoints. */
  region?: string;
  /**
   * Credentials, or a function that returns them, such as `fromNodeProviderChain()` of `@aws-sdk/credential-providers`; it is called again when they
   * are about to expire. By default those of the environment variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, in which
   * Lambda passes a function's.
   */
  credentials?: Credentials | (() => Promise<Credentials>);
  /** @internal For tests: the time of all signatures. */
  at?: Date;
}

/** Signs requests for API Gateway (SigV4, service execute-api), with the AWS SDK's signer. */
export function sigV4(config: SigV4Config = {}): Signer {
  return new SigV4Signer(config);
}

class SigV4Signer implements Signer {
  readonly #config: SigV4Config;
  #signer: SignatureV4 | undefined;
  #had = false; // credentials were found once

  constructor(config: SigV4Config) {
    this.#config = config;
  }

  check(endpoint: URL): void {
    const [given, region] = [this.#config.region, gatewayRegion(endpoint.hostname)];
    if (!given && !region) throw new TypeError("the region of sigV4 is missing; requests are signed for a region");
    if (given && region && given !== region)
      throw new TypeError(`the region of sigV4 is ${JSON.stringify(given)}, but the endpoint is in ${JSON.stringify(region)}; leave it out`);
  }

  async sign({ method, endpoint, path, query, headers, body }: SignableRequest): Promise<Record<string, string>> {
    this.#signer ??= new SignatureV4({
      service: "execute-api",
      region: this.#config.region ?? gatewayRegion(endpoint.hostname) ?? "",
      credentials: () => this.#credentials(),
      sha256: Sha256,
      applyChecksum: false, // no header with the hash of the body, which is signed without it
    });
    const { protocol, hostname } = endpoint;
    const at = this.#config.at ? { signingDate: this.#config.at } : {};
    const signed = await this.#signer.sign({ method, protocol, hostname, path, query, headers, body }, at);
    return signed.headers;
  }

  async #credentials(): Promise<Credentials> {
    const { credentials = fromEnvironment } = this.#config;
    try {
      const found = typeof credentials === "function" ? await credentials() : credentials;
      if (!found.accessKeyId || !found.secretAccessKey) throw new Error("the AWS credentials are empty");
      this.#had = true;
      return found;
    } catch (error) {
      if (this.#had || passing(error)) throw error;
      const fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give sigV4 other credentials; with single sign-on, run aws sso login";
      throw new RefusedError(`credentials: ${(error as Error).message}: ${fix}`, { code: "misconfigured", cause: error });
    }
  }
}

/** Whether a source of credentials failed only for the moment: the network failed, or a service of AWS did. */
function passing(error: unknown): boolean {
  const { code, $fault, name } = error as { code?: unknown; $fault?: unknown; name?: unknown };
  return (
    $fault === "server" ||
    /Throttl|Timeout/.test(String(name)) ||
    ["ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH"].includes(String(code))
  );
}

async function fromEnvironment(): Promise<Credentials> {
  const { AWS_ACCESS_KEY_ID: accessKeyId = "", AWS_SECRET_ACCESS_KEY: secretAccessKey = "", AWS_SESSION_TOKEN: sessionToken } = process.env;
  if (!accessKeyId || !secretAccessKey) throw new Error("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set");
  return { accessKeyId, secretAccessKey, ...(sessionToken && { sessionToken }) };
}

/** SHA-256 and its HMAC as the signer wants them. */
class Sha256 {
  #hash: Hash | Hmac;

  constructor(private readonly secret?: string | ArrayBuffer | ArrayBufferView) {
    this.#hash = this.#make();
  }

  #make(): Hash | Hmac {
    if (this.secret === undefined) return createHash("sha256");
    return createHmac("sha256", bytes(this.secret));
  }

  update(data: string | ArrayBuffer | ArrayBufferView): void {
    this.#hash.update(bytes(data));
  }

  async digest(): Promise<Uint8Array> {
    return this.#hash.digest();
  }

  reset(): void {
    this.#hash = this.#make();
  }
}

function bytes(data: string | ArrayBuffer | ArrayBufferView): Buffer {
  if (typeof data === "string") return Buffer.from(data);
  return ArrayBuffer.isView(data) ? Buffer.from(data.buffer, data.byteOffset, data.byteLength) : Buffer.from(data);
}
