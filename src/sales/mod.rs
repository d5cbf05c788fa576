//! Sales at the till: which opportunity a sale is evidence for, and what that does to it. Pure: a sale, the triggers and the
//! records that may be meant come in as values, a verdict goes out.
//!
//! Reading sales and storing what came of them is the engine's: `sync::sales`.

pub mod closing;
pub mod matching;
pub mod meaning;
