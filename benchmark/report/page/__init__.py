"""Everything in results/ on one page without network: tables, figures, records, commands."""
