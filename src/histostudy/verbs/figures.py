"""stub"""
def planned_figures(study): return []
