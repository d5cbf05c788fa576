//! The one table: what was measured, the figure, the yardstick of the same run, their ratio.

use std::{fmt, time::Duration};

/// What a part of the benchmark measured, or why it could not.
pub type Rows = anyhow::Result<Vec<Row>>;

/// A number and its unit.
pub struct Figure(pub f64, pub &'static str);

impl Figure {
    /// A duration in milliseconds.
    pub fn millis(duration: Duration) -> Self {
        Self(duration.as_secs_f64() * 1_000.0, "ms")
    }

    /// So many of something in a duration.
    pub fn rate(count: usize, duration: Duration, unit: &'static str) -> Self {
        Self(count as f64 / duration.as_secs_f64(), unit)
    }
}

/// Three digits say all that such a measurement can.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.0 {
            number if number >= 100.0 || number.fract() == 0.0 => 0,
            number if number >= 10.0 => 1,
            number if number >= 1.0 => 2,
            _ => 3,
        };
        let text = format!("{:.decimals$}", self.0);
        let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
        let mut grouped = String::new();
        for (place, digit) in whole.chars().enumerate() {
            if place > 0 && (whole.len() - place).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        f.pad(&format!("{grouped}{rest} {}", self.1))
    }
}

/// One line of the table.
pub struct Row {
    what: String,
    figure: Figure,
    yardstick: String,
    measured: Figure,
}

impl Row {
    /// `figure` of `what`, beside what the `yardstick` measured in the same unit.
    pub fn new(what: impl Into<String>, figure: Figure, yardstick: impl Into<String>, measured: Figure) -> Self {
        Self { what: what.into(), figure, yardstick: yardstick.into(), measured }
    }

    fn ratio(&self) -> String {
        if self.measured.0 == 0.0 { "-".into() } else { format!("{:.2}", self.figure.0 / self.measured.0) }
    }
}

/// Prints what stands over the columns.
pub fn head() {
    println!("| {:<78} | {:>20} | {:<62} | {:>20} | {:>7} |", "measured", "figure", "yardstick", "", "ratio");
    println!("|{:-<80}|{:->22}|{:-<64}|{:->22}|{:->9}|", "", ":", "", ":", ":");
}

/// Prints rows as soon as they are there, so that a run that is cut short has shown something; a part that failed is a
/// line with its error.
pub fn add(part: &str, rows: Rows) {
    match rows {
        Ok(rows) => {
            for row in rows {
                let ratio = row.ratio();
                println!(
                    "| {:<78} | {:>20} | {:<62} | {:>20} | {ratio:>7} |",
                    row.what, row.figure, row.yardstick, row.measured
                );
            }
        }
        Err(error) => println!("| {part}: FAILED: {error:#} | | | | |"),
    }
}
