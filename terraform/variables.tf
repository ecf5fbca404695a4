# The parameters of template.yaml, under the same names in lower case, and what Terraform needs besides: name, code, versions.

variable "name" {
  description = "The beginning of the names of all resources: 1 to 40 letters, digits and -."
  type        = string
  default     = "holdfast"
  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9-]{0,39}$", var.name))
    error_message = "name must be a letter, and up to 39 letters, digits and - after it."
  }
}

variable "code" {
  description = "The directory with the functions' zips, such as dist/arm64 of make build, or of an unpacked release."
  type        = string
}

variable "architecture" {
  description = "What the functions are built for: arm64 or x86_64."
  type        = string
  default     = "arm64"
  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "architecture must be arm64 or x86_64."
  }
}

variable "deletion_protection" {
  description = "Whether DynamoDB refuses to delete the table; set it after the first deployment."
  type        = bool
  default     = false
}

variable "table_name" {
  description = "The table's name; if empty, NAME-locks."
  type        = string
  default     = ""
}

variable "max_ttl_milliseconds" {
  description = "The longest TTL that a request may ask for, from 60000 (1 minute) to 604800000 (7 days)."
  type        = number
  default     = 86400000
  validation {
    condition     = var.max_ttl_milliseconds >= 60000 && var.max_ttl_milliseconds <= 604800000
    error_message = "max_ttl_milliseconds must be from 60000 to 604800000."
  }
}

variable "state_machines" {
  description = "The names of the state machines whose tasks may wait for locks; a * at the end of a name matches any rest."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for m in var.state_machines : can(regex("^[^,:/*?]+\\*?$", m))])
    error_message = "state_machines must be names, or beginnings of names and a *."
  }
}

variable "durable_functions" {
  description = "The names of the Lambda durable functions that may wait for locks; a * at the end of a name matches any rest."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for f in var.durable_functions : can(regex("^[A-Za-z0-9_-]+\\*?$", f))])
    error_message = "durable_functions must be names, or beginnings of names and a *."
  }
}

variable "events" {
  description = "The beginnings of the names of the locks whose events are published, such as deploy:; [\"*\"] for all, [\"-\"] for none."
  type        = list(string)
  default     = ["*"]
  validation {
    condition     = var.events == tolist(["*"]) || var.events == tolist(["-"]) || length(var.events) > 0 && alltrue([for e in var.events : can(regex("^[A-Za-z0-9._:@+=][A-Za-z0-9._:@+=-]*$", e))])
    error_message = "events must be [\"*\"], [\"-\"] or beginnings of locks' names."
  }
}

variable "prompt_expiry" {
  description = "Whether timers publish the expiry of leases promptly; tasks that wait for locks need them."
  type        = bool
  default     = true
}

variable "concurrency" {
  description = "Concurrent executions reserved for each function that serves requests; 0 reserves none."
  type        = number
  default     = 0
}

variable "stream_concurrency" {
  description = "Concurrent executions reserved for the stream function; 0 reserves none."
  type        = number
  default     = 0
}

variable "expire_concurrency" {
  description = "Concurrent executions reserved for the expire function, at least timers_concurrency; 0 reserves none."
  type        = number
  default     = 0
}

variable "timers_concurrency" {
  description = "How many executions of the expire function work on timers at a time: 2 to 1000."
  type        = number
  default     = 10
  validation {
    condition     = var.timers_concurrency >= 2 && var.timers_concurrency <= 1000
    error_message = "timers_concurrency must be from 2 to 1000."
  }
}

variable "no_api" {
  description = "Whether there is no HTTP API; callers then invoke the functions (docs/network.md)."
  type        = bool
  default     = false
}

variable "requests_per_second" {
  description = "The API's limit of requests per second."
  type        = number
  default     = 1000
}

variable "burst" {
  description = "The API's limit of bursts."
  type        = number
  default     = 500
}

variable "subnet_ids" {
  description = "The subnets of the functions; if empty, the functions are in no VPC."
  type        = list(string)
  default     = []
}

variable "security_group_ids" {
  description = "The security groups of the functions; they go with subnet_ids."
  type        = list(string)
  default     = []
  validation {
    condition     = (length(var.security_group_ids) == 0) == (length(var.subnet_ids) == 0)
    error_message = "security_group_ids and subnet_ids go together; give both or neither."
  }
}

variable "endpoints_vpc_id" {
  description = "The VPC of the subnets, in which the module makes VPC endpoints for Holdfast alone; if empty, it makes none."
  type        = string
  default     = ""
  validation {
    condition     = var.endpoints_vpc_id == "" || length(var.subnet_ids) > 0 && length(var.route_table_ids) > 0
    error_message = "endpoints_vpc_id needs subnet_ids, security_group_ids and route_table_ids."
  }
}

variable "route_table_ids" {
  description = "The route tables of the subnets, for DynamoDB's endpoint; they go with endpoints_vpc_id."
  type        = list(string)
  default     = []
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 30
  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 180, 365, 731], var.log_retention_days)
    error_message = "log_retention_days must be 1, 3, 5, 7, 14, 30, 60, 90, 120, 180, 365 or 731."
  }
}

variable "alarm_topic_arn" {
  description = "The ARN of the SNS topic that alarms notify; if empty, alarms notify nobody."
  type        = string
  default     = ""
}

variable "tracing" {
  description = "Whether X-Ray traces the functions."
  type        = bool
  default     = false
}

variable "trace_endpoint" {
  description = "The URL of a collector that gets the functions' spans, such as http://localhost:4318 of a layer; build the functions with GOFLAGS=-tags=traced. If empty, no spans."
  type        = string
  default     = ""
}

variable "trace_layer_arn" {
  description = "The ARN of the version of a layer with a collector, which all functions get; if empty, none."
  type        = string
  default     = ""
}

variable "key_arn" {
  description = "The ARN of the KMS key that encrypts table, queues, bus and logs; its policy must allow what docs/iam.md lists. If empty, AWS owned keys."
  type        = string
  default     = ""
}

variable "notify_name" {
  description = "The first part of the names of the queues by which waiters may be notified, which are NAME-notify-…."
  type        = string
  default     = "holdfast"
  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,52}$", var.notify_name))
    error_message = "notify_name must be 1 to 52 letters, digits, _ and -."
  }
}

variable "metric_namespace" {
  description = "The CloudWatch namespace of the metrics; if empty, Holdfast/NAME/Locks."
  type        = string
  default     = ""
}

variable "versions" {
  description = "Whether each change of a function publishes a version, to which its alias live points; without, it points to the function as it is."
  type        = bool
  default     = false
}

variable "stable_versions" {
  description = "With versions: the versions to which the aliases keep pointing, by function, such as the output versions of before; the newest get canary_weight of the requests. If empty, the aliases point to the newest."
  type        = map(string)
  default     = {}
}

variable "canary_weight" {
  description = "With stable_versions: the part of the requests that the newest versions get, from 0 to 1."
  type        = number
  default     = 0
  validation {
    condition     = var.canary_weight >= 0 && var.canary_weight < 1
    error_message = "canary_weight must be at least 0 and below 1; for all requests, leave stable_versions out."
  }
}
