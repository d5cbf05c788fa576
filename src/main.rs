//! The command line.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tandem::{
    command::{self, Exit, Global, demo::Size},
    model::{Name, Winner, link::Verdict},
};
use tracing_subscriber::EnvFilter;

/// Small allocations on several threads are most of what a page of records costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps sales opportunities in step between this store and the systems your people already use.
#[derive(Parser)]
#[command(name = "tandem", version, propagate_version = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The daemon: API, webhooks, reconciler.
    Serve,
    /// See it alive: the daemon on a throw-away database with four sandboxes beside it.
    Demo {
        #[command(flatten)]
        size: Size,
        /// Port of the daemon.
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// Stop by itself after this long.
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Only the vendor simulators; prints one JSON line for each.
    Sandbox {
        #[command(flatten)]
        size: command::sandbox::Size,
        /// Port; any free one if left out.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Send webhooks to this address.
        #[arg(long)]
        webhooks: Option<String>,
    },
    /// Do everything that can be done now, and stop.
    Sync {
        /// The only way there is; `serve` does it all the time.
        #[arg(long, required = true)]
        once: bool,
    },
    /// Every write on every side, per field, without doing it.
    Plan {
        /// Keep it in a file for `apply`.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Do exactly what a plan says; refused if anything changed since.
    Apply {
        /// The plan.
        file: PathBuf,
    },
    /// Connectors and their credentials.
    #[command(subcommand)]
    Connection(ConnectionCommand),
    /// What both sides changed.
    #[command(subcommand)]
    Conflicts(ConflictCommand),
    /// What was set aside for a person.
    #[command(subcommand)]
    Failures(FailureCommand),
    /// Sales at the till.
    #[command(subcommand)]
    Sales(SalesCommand),
    /// Continue an opportunity at the till: whoever pays wins it.
    Checkout(command::checkout::Checkout),
    /// An opportunity's appointment at a clinic.
    #[command(subcommand)]
    Appointment(command::appointment::Appointment),
    /// What the mass-change guard holds.
    #[command(subcommand)]
    Guard(GuardCommand),
    /// Compare everything on both sides; prints the drift.
    Audit,
    /// Why a record is as it is.
    Why {
        /// Its id, or its key as `failures list` prints it.
        record: String,
    },
    /// Write records out.
    Export {
        /// Which.
        #[arg(value_parser = ["opportunities"])]
        what: String,
        /// Only this account.
        #[arg(long)]
        account: Option<Name>,
    },
    /// Look at everything an operator can get wrong.
    Doctor,
    /// Bring the tables up to date.
    Migrate,
    /// Master keys.
    #[command(subcommand)]
    Keys(KeyCommand),
    /// API tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print the API's description.
    Openapi,
    /// Run seeds of the simulation.
    Simulate {
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many.
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// Only these operations of the seed, such as 3,7,9.
        #[arg(long, value_delimiter = ',')]
        only: Option<Vec<u64>>,
        /// Without these faults, such as slow,locked.
        #[arg(long, value_delimiter = ',')]
        without: Vec<String>,
        /// Companies of several systems, sales and visits included, instead of a HubSpot account.
        #[arg(long, conflicts_with_all = ["only", "without"])]
        companies: bool,
    },
}

#[derive(Subcommand)]
enum SalesCommand {
    /// Sales that no one opportunity is known for.
    Unmatched,
    /// Say which opportunity a sale is of.
    Link {
        /// The sale, as `sales unmatched` names it.
        sale: String,
        /// Our id of the opportunity.
        opportunity: String,
    },
}

#[derive(Subcommand)]
enum ConnectionCommand {
    /// Keep a connection that a TOML file describes.
    Add {
        /// Its name.
        name: Name,
        /// The keys of [connections.NAME], in a file.
        file: PathBuf,
    },
    /// How they stand.
    List,
    /// Who is it, which rights, is the clock right?
    Test {
        /// Which.
        name: Name,
    },
    /// Have a person let its OAuth app in, in a browser, and keep the grant.
    Authorize {
        /// Which.
        name: Name,
    },
    /// Stop for now; nothing is lost.
    Pause {
        /// Which.
        name: Name,
    },
    /// Go on.
    Resume {
        /// Which.
        name: Name,
    },
    /// Forget a stored connection.
    Remove {
        /// Which.
        name: Name,
    },
}

#[derive(Subcommand)]
enum ConflictCommand {
    /// Newest first.
    List {
        /// Only those that wait for a person.
        #[arg(long)]
        open: bool,
    },
    /// One of them.
    Show {
        /// Which.
        id: String,
    },
    /// Decide it, or overturn a rule's decision.
    Resolve {
        /// Which.
        id: String,
        /// Whose value both sides get.
        #[arg(long, value_parser = ["local", "remote"])]
        take: String,
    },
}

#[derive(Subcommand)]
enum FailureCommand {
    /// Newest first.
    List,
    /// Try one again now, or `all`.
    Retry {
        /// Which.
        id: String,
    },
}

#[derive(Subcommand)]
enum GuardCommand {
    /// What is held.
    List,
    /// Let it go.
    Approve {
        /// Of which connection.
        connection: Name,
    },
    /// Do not write it.
    Discard {
        /// Of which connection.
        connection: Name,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Print a new master key.
    New,
    /// Seal everything in the database with another master key; stop the daemon first.
    Rotate {
        /// The new key, as `env:NAME` or `file:PATH`: what is typed here is seen by others.
        #[arg(long)]
        to: String,
    },
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make one; it is printed once.
    Create {
        /// The account it reaches.
        #[arg(long)]
        account: Option<Name>,
        /// What it is for.
        #[arg(long, default_value = "unnamed")]
        name: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    end_quietly_when_nobody_reads();
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("RUST_LOG").unwrap_or_else(|_| EnvFilter::new(quiet(&arguments.command)));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    match dispatch(arguments).await {
        Ok(exit) => ExitCode::from(exit as u8),
        // Whoever read our output has read enough.
        Err(error) if error.chain().any(is_broken_pipe) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tandem: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Printing panics where nobody reads on, as under `head`: that is no failure of ours.
fn end_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload_as_str().unwrap_or_default();
        if said.starts_with("failed printing to stdout") && said.contains("Broken pipe") {
            std::process::exit(0);
        }
        usual(panic);
    }));
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    io.or(json) == Some(std::io::ErrorKind::BrokenPipe)
}

/// The daemon logs; other commands speak for themselves, and a simulation is full of errors that are meant.
fn quiet(command: &Command) -> &'static str {
    match command {
        Command::Serve => "info",
        Command::Simulate { .. } => "off",
        _ => "error",
    }
}

async fn dispatch(arguments: Arguments) -> anyhow::Result<Exit> {
    let global = &arguments.global;
    match arguments.command {
        Command::Serve => command::serve::serve(global).await,
        Command::Demo { size, port, seconds } => command::demo::demo(size, port, seconds).await,
        Command::Sandbox { size, port, webhooks } => command::sandbox::sandbox(size, port, webhooks).await,
        Command::Sync { .. } => command::sync::once(global).await,
        Command::Plan { out } => command::plan::plan(global, out.as_deref()).await,
        Command::Apply { file } => command::plan::apply(global, &file).await,
        Command::Connection(command) => match command {
            ConnectionCommand::Add { name, file } => command::connection::add(global, &name, &file).await,
            ConnectionCommand::List => command::connection::list(global).await,
            ConnectionCommand::Test { name } => command::connection::test(global, &name).await,
            ConnectionCommand::Authorize { name } => command::connection::authorize(global, &name).await,
            ConnectionCommand::Pause { name } => command::connection::set_paused(global, &name, true).await,
            ConnectionCommand::Resume { name } => command::connection::set_paused(global, &name, false).await,
            ConnectionCommand::Remove { name } => command::connection::remove(global, &name).await,
        },
        Command::Conflicts(command) => match command {
            ConflictCommand::List { open } => command::desk::conflicts(global, open).await,
            ConflictCommand::Show { id } => command::desk::show_conflict(global, &id).await,
            ConflictCommand::Resolve { id, take } => {
                let take = if take == "local" { Winner::Local } else { Winner::Remote };
                command::desk::resolve(global, &id, take).await
            }
        },
        Command::Sales(SalesCommand::Unmatched) => command::sales::unmatched(global).await,
        Command::Sales(SalesCommand::Link { sale, opportunity }) => {
            command::sales::link(global, &sale, &opportunity).await
        }
        Command::Checkout(asked) => command::checkout::start(global, asked).await,
        Command::Appointment(what) => command::appointment::run(global, what).await,
        Command::Failures(FailureCommand::List) => command::desk::failures(global).await,
        Command::Failures(FailureCommand::Retry { id }) => command::desk::retry(global, &id).await,
        Command::Guard(GuardCommand::List) => command::desk::guard_list(global).await,
        Command::Guard(GuardCommand::Approve { connection }) => {
            command::desk::guard_decide(global, &connection, Verdict::Approve).await
        }
        Command::Guard(GuardCommand::Discard { connection }) => {
            command::desk::guard_decide(global, &connection, Verdict::Discard).await
        }
        Command::Audit => command::desk::audit(global).await,
        Command::Why { record } => command::desk::why(global, &record).await,
        Command::Export { account, .. } => command::export::opportunities(global, account.as_ref()).await,
        Command::Doctor => command::upkeep::doctor(global).await,
        Command::Migrate => command::upkeep::migrate(global).await,
        Command::Keys(KeyCommand::New) => Ok(command::upkeep::new_key()),
        Command::Keys(KeyCommand::Rotate { to }) => command::upkeep::rotate_key(global, &to).await,
        Command::Token(TokenCommand::Create { account, name }) => {
            command::upkeep::create_token(global, account.as_ref(), &name).await
        }
        Command::Openapi => command::upkeep::openapi(),
        Command::Simulate { seed, seeds, only, without, companies } => {
            let work = move || match companies {
                true => command::upkeep::simulate_companies(seed, seeds),
                false => command::upkeep::simulate(seed, seeds, only.as_deref(), &without),
            };
            tokio::task::spawn_blocking(work).await.map_err(Into::into)
        }
    }
}
